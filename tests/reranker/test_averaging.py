import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder

from readqg.errors import ModelError
from readqg.reranker.averaging import average
from tests.builders import tiny_cross_encoder


def test_weights_lie_between_the_two(tmp_path):
    start, tuned = tiny_cross_encoder(tmp_path / "start"), tiny_cross_encoder(tmp_path / "tuned", seed=1)
    (tuned / "README.md").write_text("figures of other weights")
    for share in (0.0, 0.25, 1.0):
        out = tmp_path / f"averaged {share}"
        said = average(str(start), str(tuned), out, share)
        first, second, found = (load_file(folder / "model.safetensors") for folder in (start, tuned, out))
        assert first.keys() == found.keys()
        for name, value in found.items():
            assert torch.allclose(value, (1 - share) * first[name] + share * second[name], atol=1e-7)
        assert average(str(start), str(tuned), out, share) == said
        assert not (out / "README.md").exists()
        assert CrossEncoder(str(out), device="cpu").predict([("wing", "the wing")]).shape == (1,)


def test_models_of_two_kinds_are_refused(tmp_path):
    start, tuned = tiny_cross_encoder(tmp_path / "start"), tiny_cross_encoder(tmp_path / "tuned", max_positions=32)
    with pytest.raises(ModelError, match=r"not of one architecture: .*position"):
        average(str(start), str(tuned), tmp_path / "out", 0.5)
