"""Files of the PyTorch world, written with made-up weights."""

import pytest


@pytest.fixture(scope="session")
def torch():
    """PyTorch, which only reading and writing its files needs."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def tensors(torch):
    """`tensors(state_dict, prefix="")` -> the same as PyTorch tensors, names prefixed."""

    def convert(state_dict, prefix=""):
        return {f"{prefix}{k}": torch.from_numpy(v.copy()) for k, v in state_dict.items()}

    return convert


@pytest.fixture(scope="session")
def networks(tmp_path_factory, torch):
    """A folder with Hugging Face folders `depth` and `segmentation` of very small networks."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    trunk = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    depth = transformers.DepthAnythingConfig(
        backbone_config=trunk,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    transformers.DepthAnythingForDepthEstimation(depth).save_pretrained(folder / "depth")
    segmentation = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
        num_labels=150,
    )
    network = transformers.SegformerForSemanticSegmentation(segmentation)
    network.save_pretrained(folder / "segmentation")
    return folder
