"""Which variables learn how fast: the depth of each layer, and the groups that a layer-wise decay makes of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from convnext_keras.layer_names import BLOCK_ROLES, DOWNSAMPLING_ROLES, TEXT_BLOCK_ROLES, LayerName, parse_layer_name
from convnext_keras.surgery import flatten_layers
from convnext_keras.validation import format_choices

BLOCKS_PER_GROUP = 3  # of the third stage, in one group of the stage-wise mode


class ParamGroup(NamedTuple):
    """Variables with one learning rate.

    Attributes:
        tower: Prefix of its layer names, such as `"convnext_tiny_"`; empty for the text tower of ConvNeXt-CLIP and for
            custom layers.
        depth: 0 for the stem, and one more than the last block for the head.
        scale: Factor 0..1 of the learning rate.
        decayed: Whether weight decay applies, to kernels and embeddings only.
        parameters: Number of parameters.
        variables: Variables as `variable_key` names them.
    """

    tower: str
    depth: int
    scale: float
    decayed: bool
    parameters: int
    variables: tuple[str, ...]


def is_decayed(variable: keras.Variable) -> bool:
    """Returns whether weight decay applies: to kernels, not to biases, norms, layer scale, GRN and scalars.

    All public training configs have this rule (Meta's and timm's `param_groups_weight_decay`, OpenCLIP's training
    script).
    """
    return len(variable.shape) > 1


def variable_key(variable: Any) -> str:
    """Returns layer and variable, such as `"dense/kernel"`; unlike `variable.path`, it survives saving."""
    return "/".join(variable.path.split("/")[-2:])


def parameter_groups(model: keras.Model, layer_decay: float = 1.0, mode: str = "block") -> list[ParamGroup]:
    """Returns the groups that an optimizer of this model has, from the input to the head.

    Args:
        model: A model of this library, or one built on it, such as `Sequential([backbone, Dense(5)])`.
        layer_decay: Factor 0..1 between the learning rates of a depth and of the one above; the head's is 1.
        mode: `"block"` counts each block as a depth of its own; `"stage"` counts the first two stages and the last as
            one each, and three blocks of the third stage together.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from convnext_keras import create_model, training
        >>> groups = training.parameter_groups(create_model("convnext_mini.digits"), layer_decay=0.5)
        >>> [(group.depth, group.scale, group.decayed) for group in groups][-2:]
        [(7, 1.0, True), (7, 1.0, False)]
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1. Received: layer_decay={layer_decay!r}")
    depths = layer_depths(model, mode)
    trainable = {id(variable) for variable in model.trainable_variables}
    members: dict[tuple[str, int, float, bool], list[keras.Variable]] = {}
    for layer, (tower, depth, head) in depths:
        for variable in layer.trainable_variables:
            if id(variable) in trainable:
                key = (tower, depth, layer_decay ** (head - depth), is_decayed(variable))
                members.setdefault(key, []).append(variable)
    order = sorted(members, key=lambda key: (key[1], key[0], not key[3]))
    sizes = {key: sum(_size(variable) for variable in members[key]) for key in order}
    return [ParamGroup(*key, sizes[key], tuple(variable_key(variable) for variable in members[key])) for key in order]


def _size(variable: keras.Variable) -> int:
    size = 1
    for length in variable.shape:
        size *= length
    return size


def layer_depths(model: keras.Model, mode: str = "block") -> list[tuple[keras.Layer, tuple[str, int, int]]]:
    """Returns each layer with weights, with its tower, its depth, and the depth of the tower's head.

    "A ConvNet for the 2020s", appendix A, has the stage-wise mode for 27 blocks in the third stage; the code of
    ConvNeXt V2 has both (`facebookresearch/ConvNeXt-V2`, `optim_factory.py` at 2553895). A downsampling layer is as
    deep as the block behind it. What is in no tower is as deep as the head.

    Raises:
        ValueError: If the mode is unknown.
    """
    if mode not in DECAY_MODES:
        raise ValueError(f"mode must be {format_choices(DECAY_MODES)}. Received: mode={mode!r}")
    layers = [layer for layer in flatten_layers(model) if layer.variables]
    readings = [parse_layer_name(layer.name) or ("", LayerName(layer.name, is_custom=True)) for layer in layers]
    towers: dict[str, list[LayerName]] = {}
    for tower, name in readings:
        if name.role in (*BLOCK_ROLES, *TEXT_BLOCK_ROLES):
            towers.setdefault(tower, []).append(name)
    heads = {
        tower: _depth_of_block(names, mode)(max(names, key=_depth_in_tower)) + 1 for tower, names in towers.items()
    }
    alone = max(heads.values(), default=0)
    placed = []
    for layer, (tower, name) in zip(layers, readings, strict=True):
        if tower not in towers or name.is_custom:
            placed.append((layer, ("", alone, alone)))
        else:
            depth = _depth(name, _depth_of_block(towers[tower], mode), heads[tower])
            placed.append((layer, (tower, depth, heads[tower])))
    return placed


def _depth_in_tower(name: LayerName) -> tuple[int, int]:
    return name.stage, name.block


def _depth(name: LayerName, depth_of_block: Callable[[LayerName], int], head: int) -> int:
    if name.role in (*BLOCK_ROLES, *TEXT_BLOCK_ROLES):
        return depth_of_block(name)
    if name.role in DOWNSAMPLING_ROLES:  # Keras numbers it by the stage before.
        return depth_of_block(LayerName(BLOCK_ROLES[0], name.stage + 1))
    if name.role.startswith("first_downsampling"):
        return depth_of_block(LayerName(BLOCK_ROLES[0]))
    return 0 if name.role.startswith(STEM_ROLES) else head


STEM_ROLES = ("stem", "prestem", "channels_last", "text_token_embedding", "text_position_embedding")


def _depth_of_block(names: list[LayerName], mode: str) -> Callable[[LayerName], int]:
    """Gives the depth of a block of the tower with these blocks, from 1."""
    counts: dict[int, int] = {}
    for name in names:
        counts[name.stage] = max(counts.get(name.stage, 0), name.block + 1)
    return DECAY_MODES[mode](counts)


def _blockwise(counts: dict[int, int]) -> Callable[[LayerName], int]:
    return lambda name: sum(counts[stage] for stage in counts if stage < name.stage) + name.block + 1


def _stagewise(counts: dict[int, int]) -> Callable[[LayerName], int]:
    if len(counts) < 3:  # a text tower
        return _blockwise(counts)
    third = -(-counts[2] // BLOCKS_PER_GROUP)
    return lambda name: {0: 1, 1: 2, 2: 3 + name.block // BLOCKS_PER_GROUP, 3: 3 + third}[name.stage]


DECAY_MODES: dict[str, Callable[[dict[int, int]], Callable[[LayerName], int]]] = {
    "block": _blockwise,
    "stage": _stagewise,
}
