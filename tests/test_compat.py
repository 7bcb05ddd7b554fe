import torch
from conftest import same_weights, tiny_model

from residual_st.sharing import matrices


def test_checkpoints_are_exchanged_between_fairseq_versions():
    """0.12.2 also saves a placeholder of sinusoidal positions and a second copy of encoder weights; fairseq-fixed does not."""
    model = tiny_model(seed=1)
    state = model.state_dict()
    placeholders = {f"{part}.embed_positions._float_tensor": torch.zeros(1) for part in ("encoder", "decoder")}
    for converted in (
        {name: value for name, value in state.items() if name not in placeholders},
        {**state, **placeholders, "encoder.transformer_layers.0.in_proj_weight": torch.zeros(96, 32)},
    ):
        loaded = tiny_model(seed=2)
        loaded.load_state_dict(converted)
        assert same_weights(loaded.state_dict(), state)


def test_encoder_layers_have_no_second_copy_of_their_weights():
    model = tiny_model()
    allowed = {"self_attn_layer_norm", "final_layer_norm"}
    for layer in model.encoder.transformer_layers:
        inside = {id(parameter) for _, linear in matrices(layer) for parameter in linear.parameters()}
        unshared = [name for name, parameter in layer.named_parameters() if id(parameter) not in inside]
        assert {name.partition(".")[0] for name in unshared} == allowed


def test_post_norm_layers_use_their_residuals_in_inference(batch):
    """0.12.2's fused kernel would read its own copies of the weights."""
    model = tiny_model(encoder_normalize_before=False).eval()
    before = model(**batch)[0]
    with torch.no_grad():
        for layer in model.encoder.transformer_layers:
            for _, linear in matrices(layer):
                linear.diagonal += 0.5
        assert not torch.allclose(model(**batch)[0], before)
