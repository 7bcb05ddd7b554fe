"""Every sentence is used. Without the patch, fairseq-fixed drops a last batch whose size is not a multiple of eight."""

import numpy as np
import pytest
import torch
from conftest import tiny_flags
from fairseq import tasks
from fairseq.data import data_utils


@pytest.fixture(scope="module")
def subsets(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subsets") / "data"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).symlink_to(file)
    header, *lines = (data / "tst-HE_st.tsv").read_text().splitlines()
    for count in range(1, 18):
        (folder / f"tst{count}.tsv").write_text("\n".join([header, *lines[:count]]) + "\n")
        (folder / f"train{count}.tsv").write_text("\n".join([header, *lines[:count]]) + "\n")
    return folder


@pytest.fixture(scope="module")
def generation(subsets):
    """The stock task and a dense model with this user dir, as in fairseq-generate."""
    flags = {"task": "speech_to_text", "config_yaml": "config_st.yaml", "data": str(subsets), "seed": 1, "train_subset": "train1"}
    flags |= {"max_source_positions": 6000, "max_target_positions": 1024}
    task = tasks.setup_task(tiny_flags("s2t_transformer_s", **flags))
    torch.manual_seed(1)
    return task, task.build_model(tiny_flags("s2t_transformer_s", **flags)).eval()


@pytest.mark.parametrize("count", range(1, 18))
def test_every_sentence_is_generated(generation, count):
    task, model = generation
    task.load_dataset(f"tst{count}")
    batches = task.get_batch_iterator(task.dataset(f"tst{count}"), max_tokens=4000, required_batch_size_multiple=8)
    generator = task.build_generator([model], tiny_flags(beam=1, max_len_a=0, max_len_b=3))
    hypotheses = {}
    for batch in batches.next_epoch_itr(shuffle=False):
        for number, best in zip(batch["id"].tolist(), task.inference_step(generator, [model], batch)):
            hypotheses[number] = best
    assert sorted(hypotheses) == list(range(count))


@pytest.mark.parametrize("count", range(1, 18))
@pytest.mark.parametrize("kind", ["tst", "train"])
def test_every_sentence_is_used_in_training_and_validation(generation, kind, count):
    task, _ = generation
    task.load_dataset(f"{kind}{count}")
    iterator = task.get_batch_iterator(
        task.dataset(f"{kind}{count}"), max_tokens=4000, required_batch_size_multiple=8, seed=1, ignore_invalid_inputs=True
    )
    numbers = [number for batch in iterator.next_epoch_itr(shuffle=True) for number in batch["id"].tolist()]
    assert sorted(numbers) == list(range(count))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("limits", [{"max_tokens": 50}, {"max_sentences": 16}, {"max_tokens": 300, "max_sentences": 24}])
def test_batches_keep_the_order_and_the_size_limits(count, limits):
    sizes = np.random.default_rng(1).integers(1, 6, size=count)
    order = np.argsort(sizes, kind="stable")
    batches = data_utils.batch_by_size(order, lambda index: sizes[index], sizes, **limits, required_batch_size_multiple=8)
    assert [index for batch in batches for index in batch] == order.tolist()
    for batch in batches:
        assert len(batch) <= limits.get("max_sentences", count)
        assert len(batch) * max(sizes[batch]) <= limits.get("max_tokens", 10**9)
