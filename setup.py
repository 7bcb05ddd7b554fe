from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="residual-st",
    version="0.1.0",
    description="Speech translation encoders a third of the size: residual-shared Transformers (arXiv 2310.02489) for fairseq",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["residual_st", "residual_st.*"]),
    package_data={"residual_st.report": ["page.html.j2"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        # fairseq's last release does not import on Python 3.11 and later; fairseq-fixed is the same code, repaired
        'fairseq==0.12.2; python_version < "3.11"',
        'fairseq-fixed>=0.12.3.1; python_version >= "3.11"',
        "torch>=2.6",  # loads checkpoints as data, not as programs
        "numpy",
        "pyyaml",
        "sacrebleu>=2.0",
        "scipy",
        "sentencepiece",
        "tabulate",
        "tqdm",
    ],
    extras_require={
        # examples/must_c: filterbanks from audio, and word error rates in fairseq-generate
        "recipe": ["editdistance", "kaldi-native-fbank", "soundfile"],
        # residual-st benchmark: plots and word error rates
        "benchmark": ["editdistance", "matplotlib"],
        # residual-st report
        "report": ["editdistance", "jinja2", "matplotlib", "soundfile"],
        # the synthetic corpus
        "demo": ["espeakng-loader"],
        "test": ["pytest", "ruff", "tensorboard"],
    },
    entry_points={"console_scripts": ["residual-st = residual_st.cli:main"]},
)
