"""Encoder latency, training updates and beam search, residual against dense (stock)."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from fairseq.dataclass.configs import FairseqConfig
from torch import Tensor, nn

from residual_st.benchmark.beam_search import searches
from residual_st.benchmark.systems import BINS, FRAMES_PER_SECOND, GROUPS, VOCABULARY, Shape, build_pair
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.fairseq.criterions.label_smoothed_cross_entropy_with_residual import energies_by_kind
from residual_st.fairseq.kinds import stack_of
from residual_st.sharing import tune_products

TOLERANCE = 1e-4  # maximum difference of encoder outputs in float32, which have unit variance
_UTTERANCE = 400  # frames per utterance in a training batch
_TARGET_LENGTH = 20


@dataclass(frozen=True)
class Case:
    """One case of the benchmark: measure, model shape, input size and number of threads."""

    measure: str  # "encoder" or "update"; with encoder and decoder shared, "beam" or "update of both"
    shape: Shape
    threads: int
    batch: int = 1
    seconds: float = 0.0  # length per utterance, for "encoder" and "beam"
    frames: int = 0  # total of the batch, for updates
    device: str = "cpu"
    precision: str = "float32"
    tuned: bool = False  # whether "encoder" also measures compact tuned by `tune_products`
    compiled: bool = False  # whether the residual models' layers are compiled by torch.compile, for "encoder" and updates

    def row(self) -> dict:
        kept = ("frames",) if self.is_update else ("batch", "seconds")
        case = {name: getattr(self, name) for name in ("measure", "threads", *kept, "device", "precision")}
        if self.is_update:
            case["dropout"] = self.shape.dropout
        if self.tuned:
            case["tuned"] = True
        if self.compiled:
            case["compiled"] = True
        if self.clock is time.process_time:
            case["clock"] = "processor"
        return {**case, **self.shape.row()}

    @property
    def clock(self) -> Callable[[], float]:
        """Process time for one thread on a CPU, which other processes affect less than wall time; else wall time."""
        return time.process_time if self.threads == 1 and self.device == "cpu" else time.perf_counter

    @property
    def is_update(self) -> bool:
        return self.measure.startswith("update")


def cases(
    widths: list[int], ranks: list[int], group_sizes: list[int], layers: list[int], seconds: list[float], batches: list[int],
    threads: list[int], frames: list[int], dropouts: list[float], measures: list[str], tuned: bool = False,
    arch: str = Shape.arch, model_flags: Sequence[str] = (),
) -> Iterator[Case]:  # fmt: skip
    """Latency against length, batch, width and threads; against R and K; against the number of layers; and training updates.

    The first of `ranks` and `group_sizes` is used in the sweeps over other quantities, which have 12 layers. The sweep over layers
    keeps the number of groups: K grows with L.
    """
    rank, group_size, most = ranks[0], group_sizes[0], max(threads)
    middle = sorted(seconds)[len(seconds) // 2]
    shape_of = partial(Shape, arch=arch, model_flags=tuple(model_flags))
    for device, precision in _places():
        case = partial(Case, device=device, precision=precision)
        of_encoder = partial(case, "encoder", tuned=tuned and device == "cpu")
        if "encoder" in measures:
            for width, count, batch, length in product(widths, threads, batches, seconds):
                yield of_encoder(shape_of(width, 12, group_size, rank), count, batch, length)
            for width, other_rank, other_size in product(widths, ranks, group_sizes):
                yield of_encoder(shape_of(width, 12, other_size, other_rank), most, 1, middle)
        if "layers" in measures:
            for width, count in product(widths, layers):
                yield of_encoder(shape_of(width, count, count // GROUPS, rank), most, 1, middle)
        if "update" in measures:
            for width, size, dropout in product(widths, frames, dropouts):
                yield case("update", shape_of(width, 12, group_size, rank, dropout), most, frames=size)
        if "both" in measures:
            for width in widths:
                for count, batch in product(threads, batches):
                    shape = shape_of(width, 12, group_size, rank, decoder_group_size=group_size)
                    yield case("beam", shape, count, batch, middle)
                for dropout in dropouts:
                    shape = shape_of(width, 12, group_size, rank, dropout, decoder_group_size=group_size)
                    yield case("update of both", shape, most, frames=min(frames))


def _places() -> list[tuple[str, str]]:
    places = [("cpu", "float32")]
    if torch.cuda.is_available():
        places += [("cuda", precision) for precision in ("float32", "float16", "bfloat16")]
    return places


def measure(case: Case, repeats: int) -> list[dict]:
    """One row of results per residual system: times and ratios to stock. Raises AssertionError if outputs differ."""
    torch.manual_seed(1)
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        functions = _functions(case)
        compared = ratios_to("stock", alternate(functions, repeats, wait_for(case.device), case.clock))
        if case.is_update and case.device == "cuda":
            working = {name: _working_bytes(function) for name, function in functions.items()}
            for name, figures in compared.items():
                figures |= {"working_bytes": working[name], "stock_working_bytes": working["stock"]}
    finally:
        torch.set_num_threads(before)
    return [{"system": name, "seed": 1, **case.row(), **figures} for name, figures in compared.items()]


def wait_for(device: str) -> Callable[[], None]:
    """A function that waits for the device to finish; on a CPU it does nothing."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _working_bytes(function: Callable) -> int:
    """Peak GPU memory of a call minus the memory allocated before it: an update's activations, not weights and moments."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated() - before


def _functions(case: Case) -> dict[str, Callable]:
    if case.measure == "beam":
        return searches(case.shape, case.batch, case.seconds, case.device, getattr(torch, case.precision))
    return (_updates if case.is_update else _encoders)(case)


def _encoders(case: Case) -> dict[str, Callable[[], Tensor]]:
    stock, compact = (model.eval() for model in build_pair(case.shape))
    models = {"stock": stock, "compact": compact, "fast": copy.deepcopy(compact)}
    encoder: Any = stack_of(models["fast"]).owner
    encoder.inference_mode = "fast"
    if case.tuned:
        models["tuned"] = copy.deepcopy(compact)
    dtype = getattr(torch, case.precision)
    for name, model in models.items():
        model.to(case.device, dtype)
        if name != "stock":
            model.prepare_for_inference_(FairseqConfig())
    if case.tuned:
        tune_products(models["tuned"].encoder)
    if case.compiled:
        models["compiled stock"] = copy.deepcopy(stock)
        _compile(*(model for name, model in models.items() if name != "stock"))
    length = round(case.seconds * FRAMES_PER_SECOND)
    frames = torch.randn(case.batch, length, BINS, device=case.device, dtype=dtype)
    lengths = torch.full((case.batch,), length, device=case.device)

    def function_of(encoder: nn.Module) -> Callable[[], Tensor]:
        def encode() -> Tensor:
            with torch.no_grad():
                return encoder(frames, lengths)["encoder_out"][0]

        return encode

    functions = {name: function_of(model.encoder) for name, model in models.items()}
    if case.precision == "float32":
        expected = functions["stock"]()
        for function in functions.values():
            torch.testing.assert_close(function(), expected, rtol=0, atol=TOLERANCE)
    return functions


def _compile(*models: nn.Module) -> None:
    """Compile layer by layer: the layers are identical, so the first one's code serves all."""
    for model in models:
        for layer in stack_of(model).layers:
            layer.compile()


def _updates(case: Case) -> dict[str, Callable[[], None]]:
    size = max(case.frames // _UTTERANCE, 1)
    batch = {
        "src_tokens": torch.randn(size, _UTTERANCE, BINS, device=case.device),
        "src_lengths": torch.full((size,), _UTTERANCE, device=case.device),
        "prev_output_tokens": torch.randint(4, VOCABULARY, (size, _TARGET_LENGTH), device=case.device),
    }
    dtype = getattr(torch, case.precision)

    def function_of(model: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def update() -> None:
            optimizer.zero_grad()
            with torch.autocast(case.device, dtype, enabled=dtype != torch.float32):
                logits, _ = model(**batch)
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["prev_output_tokens"].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            with torch.no_grad():
                energies_by_kind(model)  # logged by the criterion at each update; a stock model has none
            optimizer.step()

        return update

    stock, residual = (model.train().to(case.device) for model in build_pair(case.shape))
    models = {"stock": stock, "residual": residual}
    if case.compiled:
        models["compiled stock"] = copy.deepcopy(stock)
        _compile(residual, models["compiled stock"])
    return {name: function_of(model) for name, model in models.items()}
