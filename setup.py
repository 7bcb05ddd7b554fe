from pathlib import Path

from setuptools import find_packages, setup

AUDIO = ["kaldi-native-fbank", "onnxruntime>=1.21", "soundfile", "soxr"]  # onnxruntime runs the voice-activity detector
SCORES = ["editdistance", "sacrebleu>=2.0"]

setup(
    name="residual-st",
    version="0.2.0",
    description="Speech translation encoders a third of the size: residual-shared Transformers (arXiv 2310.02489) for fairseq",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["residual_st", "residual_st.*"]),
    package_data={
        "residual_st.report": ["page.html.j2"],
        "residual_st.web": ["page/*", "ort/*"],
        "residual_st.audio.voice_activity": ["*.onnx", "LICENSE"],
    },
    python_requires=">=3.10,<3.14",
    # no fairseq and no torch: whoever has a fork or a source checkout of fairseq must not get a second one laid over it
    install_requires=["numpy", "pyyaml", "scipy", "tabulate", "tqdm"],
    extras_require={
        "fairseq": [
            # fairseq's last release does not import on Python 3.11 and later; fairseq-fixed is the same code, repaired
            'fairseq==0.12.2; python_version < "3.11"',
            'fairseq-fixed>=0.12.3.1; python_version >= "3.11"',
            "torch>=2.6",  # loads checkpoints as data, not as programs
            *AUDIO,
            *SCORES,
            "sentencepiece",
        ],
        # Hugging Face's models. transformers 5.0 and 5.1 fail at a number beside a name in the weights, as in shared_weights
        # transformers 4 needs accelerate to read what is stored in another way
        "transformers": ["torch>=2.6", "transformers>=4.50,!=5.0.*,!=5.1.*", "accelerate", "safetensors", *AUDIO],
        # residual-st translate: no torch. Before 1.21 onnxruntime copied a shared matrix for each of its uses
        "runtime": ["onnxruntime>=1.21", "soundfile", "soxr"],
        # residual-st listen, to a microphone
        "listen": ["onnxruntime>=1.21", "sounddevice", "soundfile", "soxr"],
        "serve": ["anyio", "onnxruntime>=1.21", "soundfile", "soxr", "starlette", "uvicorn", "websockets"],
        # speech processors for simulstream, and what its scorers need of its extra `eval`
        "streaming": ["mweralign", "onnxruntime>=1.21", "sacrebleu>=2.0", "simulstream>=1.0", "soundfile", "soxr"],
        # residual-st export, beside fairseq
        "export": ["onnx>=1.17", "onnxruntime>=1.21", "spox>=0.16", *AUDIO],
        # recordings that libsndfile does not read, such as m4a and webm
        "formats": ["av>=14"],
        # translating audio files from Python
        "audio": AUDIO,
        # examples/must_c
        "recipe": [*AUDIO, "sentencepiece"],
        # residual-st benchmark
        "benchmark": [*SCORES, "matplotlib"],
        # residual-st report
        "report": [*SCORES, "jinja2", "matplotlib", "soundfile"],
        # the synthetic corpus
        "demo": ["espeakng-loader", "soundfile"],
        "test": ["httpx", "hypothesis", "nox", "peft", "playwright", "pytest", "pytest-xdist", "ruff", "tensorboard"],
    },
    entry_points={"console_scripts": ["residual-st = residual_st.cli:main"]},
)
