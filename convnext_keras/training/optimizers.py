"""Layer-wise learning rates, and averages of the weights, around any optimizer of Keras."""

import functools
import types
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from convnext_keras.layers import register
from convnext_keras.training.param_groups import is_decayed, parameter_groups, variable_key
from convnext_keras.training.presets import TrainingConfig

# One per name in `presets.OPTIMIZERS`.
OPTIMIZER_CLASSES: dict[str, Any] = {
    "adamw": keras.optimizers.AdamW,
    "adam": keras.optimizers.Adam,
    "lion": keras.optimizers.Lion,
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
    "rmsprop": keras.optimizers.RMSprop,
}
# Their steps are no multiple of the learning rate.
UNSUPPORTED_OPTIMIZERS = ("Ftrl", "ScheduleFreeAdamW", "LossScaleOptimizer", "MultiOptimizer")


@register
class LayerwiseOptimizer(keras.optimizers.Optimizer):
    """Optimizer wrapper that scales the step of each variable.

    A step of the inner optimizer is computed for all variables together - gradients are accumulated and clipped by
    their common norm, one learning rate or schedule is logged and set, fused updates stay fused - and each
    variable then goes only its part of the way. As the steps of these optimizers, weight decay included, are
    proportional to the learning rate, this is the same as a learning rate of its own for each variable.

    Args:
        optimizer: The inner optimizer, not yet used. Weight decay leaves out biases, norms and other vectors.
        scales: The part 0..1 of a step, by layer and variable as in `ParamGroup.variables`; 1 for others.
        ema_decay: Ema decay of an exponential moving average of the variables, 0..1, which `fit` leaves in the model at
            its end and `keras.callbacks.SwapEMAWeights` evaluates; the decay rises with the steps `t` as `(1 + t) / (10
            + t)`, so that short trainings are not held back. None for no average.
        name: Name of the optimizer.

    Raises:
        ValueError: If the steps of the inner optimizer cannot be scaled.

    Example:
        >>> from convnext_keras import training
        >>> inner = keras.optimizers.AdamW(1e-3, weight_decay=0.05, global_clipnorm=1.0)
        >>> optimizer = training.LayerwiseOptimizer(inner, {"dense/kernel": 0.5}, ema_decay=0.999)
        >>> round(float(optimizer.learning_rate), 6)
        0.001
    """

    def __init__(
        self,
        optimizer: Any,
        scales: Mapping[str, float] | None = None,
        ema_decay: float | None = None,
        name: str = "layerwise",
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)  # Not used: the inner one has the rate.
        kinds = {kind.__name__ for kind in type(optimizer).__mro__}
        if not isinstance(optimizer, keras.optimizers.Optimizer) or kinds & {*UNSUPPORTED_OPTIMIZERS}:
            raise ValueError(
                f"optimizer must be one of Keras' whose steps are proportional to its learning rate, such as "
                f"keras.optimizers.AdamW. Received: {type(optimizer).__name__}"
            )
        if optimizer.use_ema:
            raise ValueError("use_ema must be False in the inner optimizer: ask for ema_decay here.")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be None, or 0 or more and below 1. Received: ema_decay={ema_decay!r}")
        self.optimizer, self.scales, self.ema_decay = optimizer, dict(scales or {}), ema_decay
        self.use_ema = ema_decay is not None
        # In a namespace, since Keras takes variables in lists of an optimizer's for its state.
        self.held = types.SimpleNamespace(variables=[], averages=[])

    def build(self, variables):
        """Makes the state for these variables."""
        self.held.variables = [*variables]
        if not self.optimizer.built:
            self.optimizer.exclude_from_weight_decay([row for row in variables if not is_decayed(row)])
            self.optimizer.build([*variables])
        self.held.averages = self.add_optimizer_variables(variables, "average") if self.use_ema else []
        self.use_ema, use_ema = False, self.use_ema  # Keras' own averages know no rise of the decay.
        super().build([*variables])
        self.use_ema = use_ema

    @property
    def variables(self):
        """Returns the variables of the state: the averages, and those of the inner optimizer."""
        return super().variables + self.optimizer.variables

    @property
    def _model_variables_moving_average(self):  # by which SwapEMAWeights finds them
        return self.held.averages

    @property
    def learning_rate(self):
        """Returns the learning rate of the head for the next step."""
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """Returns the number of steps so far."""
        return self.optimizer.iterations

    def scale_loss(self, loss):
        """Returns the loss as the inner optimizer scales it."""
        return self.optimizer.scale_loss(loss)

    def apply(self, grads, trainable_variables=None):
        """Makes one step."""
        if not self.built:
            self.build(list(trainable_variables or []))
        variables = self.held.variables if trainable_variables is None else [*trainable_variables]
        scaled = [(row, scale) for row in variables if (scale := self.scales.get(variable_key(row), 1.0)) != 1]
        before = [ops.copy(variable) for variable, _ in scaled]
        steps = ops.copy(self.iterations)
        self.optimizer.apply(grads, variables)
        for (variable, scale), start in zip(scaled, before, strict=True):
            variable.assign(start + ops.cast(scale, variable.dtype) * (variable - start))
        if self.use_ema:
            self._average(ops.cast(steps, "float32"))

    def _average(self, steps):
        """Moves the averages; the first is the variable itself, and steps that only accumulate change nothing."""
        now: Any = ops.cast(self.iterations, "float32")
        risen = ops.minimum(self.ema_decay, (1 + now) / (10 + now))
        decay = ops.where(now == steps, 1.0, ops.where(steps == 0, 0.0, risen))
        for variable, average in zip(self.held.variables, self.held.averages, strict=True):
            part: Any = ops.cast(decay, variable.dtype)
            average.assign(part * average + (1 - part) * variable)

    def finalize_variable_values(self, var_list):
        """Assigns the averages to the model at the end of `fit`."""
        self.optimizer.finalize_variable_values(var_list)
        for variable, average in zip(self.held.variables, self.held.averages, strict=False):
            variable.assign(ops.copy(average))  # JAX must not be given one buffer twice in the next fit.

    def set_weights(self, weights):
        """Sets the state to that of `variables`."""
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    def get_config(self):
        """Returns the inner optimizer and the scales."""
        inner = keras.saving.serialize_keras_object(self.optimizer)
        return {"optimizer": inner, "scales": self.scales, "ema_decay": self.ema_decay, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the reverse of `get_config`."""
        inner = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "optimizer": inner})


def build_optimizer(config: TrainingConfig, steps: int) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a training config, with linear warm-up and cosine decay over a number of steps."""
    warmup_steps = round(config.warmup_ratio * steps)
    warmup = {"warmup_target": config.learning_rate, "warmup_steps": warmup_steps} if warmup_steps else {}
    first = config.learning_rate / 100 if warmup_steps else config.learning_rate
    rate: Any = keras.optimizers.schedules.CosineDecay(first, max(1, steps - warmup_steps), **warmup)
    accumulation = config.accumulation_steps if config.accumulation_steps > 1 else None
    shared: dict[str, Any] = {"global_clipnorm": config.clip_norm, "gradient_accumulation_steps": accumulation}
    return OPTIMIZER_CLASSES[config.optimizer](rate, weight_decay=config.weight_decay, **shared)


def layerwise_optimizer(
    model: keras.Model,
    optimizer: Any,
    layer_decay: float = 1.0,
    mode: str = "block",
    ema_decay: float | None = None,
) -> LayerwiseOptimizer:
    """Returns an optimizer with a learning rate for each depth of a model; see `parameter_groups` for the groups.

    Args:
        model: A model of this library, or one built on it.
        optimizer: Any of Keras' whose steps are proportional to its learning rate, not yet used.
        layer_decay: See `parameter_groups`.
        mode: See `parameter_groups`.
        ema_decay: See `LayerwiseOptimizer`.

    Raises:
        ValueError: If an argument is not valid.

    Example:
        >>> from convnext_keras import create_model, training
        >>> model = create_model("convnext_mini.digits")
        >>> adamw = keras.optimizers.AdamW(1e-3, weight_decay=0.05)
        >>> optimizer = training.layerwise_optimizer(model, adamw, layer_decay=0.8)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """
    groups = parameter_groups(model, layer_decay, mode)
    scales = {path: group.scale for group in groups if group.scale != 1 for path in group.variables}
    return LayerwiseOptimizer(optimizer, scales, ema_decay)
