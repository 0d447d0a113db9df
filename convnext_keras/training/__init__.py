"""Fine-tuning and training: configs, data, optimizers, evaluation."""

from convnext_keras.surgery import average_weights, merge_lora
from convnext_keras.training.clip_finetuning import (
    CLIP_CONFIG,
    InterpolationResult,
    RetrievalRecall,
    ZeroShotAccuracy,
    fine_tune_clip,
    select_interpolation,
    zero_shot_accuracy,
)
from convnext_keras.training.cross_validation import CrossValidationResult, cross_validate, save_cross_validation
from convnext_keras.training.datasets import ImageDataset, load_dataset
from convnext_keras.training.distillation import distill, teacher_labels
from convnext_keras.training.evaluation import Evaluation, evaluate
from convnext_keras.training.finetuning import TrainingResult, fine_tune
from convnext_keras.training.image_text import ImageTextDataset, class_prompts, load_image_text_pairs
from convnext_keras.training.learning_rate import LearningRateTest, find_learning_rate
from convnext_keras.training.lora import enable_lora
from convnext_keras.training.losses import GeneralizedCrossEntropy, MultiLabelLoss
from convnext_keras.training.masked_pretraining import PRETRAINING_CONFIG, PretrainingResult, pretrain
from convnext_keras.training.masks import SegmentationDataset, load_segmentation_dataset, read_mask
from convnext_keras.training.model_soups import greedy_soup
from convnext_keras.training.multi_label import MultiLabelEvaluation, average_precision, choose_thresholds
from convnext_keras.training.optimizers import LayerwiseOptimizer, layerwise_optimizer
from convnext_keras.training.param_groups import ParamGroup, parameter_groups
from convnext_keras.training.predictions import format_metrics
from convnext_keras.training.presets import TRAINING_PRESETS, TrainingConfig, get_training_config
from convnext_keras.training.regression import RegressionEvaluation
from convnext_keras.training.reports import save_training_result
from convnext_keras.training.retrieval_metrics import retrieval_metrics
from convnext_keras.training.segmentation import SegmentationResult, fine_tune_segmentation
from convnext_keras.training.segmentation_metrics import (
    PixelAccuracy,
    SegmentationEvaluation,
    SegmentationLoss,
    evaluate_segmentation,
)
from convnext_keras.training.segmentation_reports import save_segmentation_result
from convnext_keras.training.splits import (
    drop_duplicates,
    find_duplicates,
    k_fold,
    stratified_split,
    train_val_split,
    validation_part,
)

__all__ = [
    "CLIP_CONFIG",
    "PRETRAINING_CONFIG",
    "TRAINING_PRESETS",
    "CrossValidationResult",
    "Evaluation",
    "GeneralizedCrossEntropy",
    "ImageDataset",
    "ImageTextDataset",
    "InterpolationResult",
    "LayerwiseOptimizer",
    "LearningRateTest",
    "MultiLabelEvaluation",
    "MultiLabelLoss",
    "ParamGroup",
    "PixelAccuracy",
    "PretrainingResult",
    "RegressionEvaluation",
    "RetrievalRecall",
    "SegmentationDataset",
    "SegmentationEvaluation",
    "SegmentationLoss",
    "SegmentationResult",
    "TrainingConfig",
    "TrainingResult",
    "ZeroShotAccuracy",
    "average_precision",
    "average_weights",
    "choose_thresholds",
    "class_prompts",
    "cross_validate",
    "distill",
    "drop_duplicates",
    "enable_lora",
    "evaluate",
    "evaluate_segmentation",
    "find_duplicates",
    "find_learning_rate",
    "fine_tune",
    "fine_tune_clip",
    "fine_tune_segmentation",
    "format_metrics",
    "get_training_config",
    "greedy_soup",
    "k_fold",
    "layerwise_optimizer",
    "load_dataset",
    "load_image_text_pairs",
    "load_segmentation_dataset",
    "merge_lora",
    "parameter_groups",
    "pretrain",
    "read_mask",
    "retrieval_metrics",
    "save_cross_validation",
    "save_segmentation_result",
    "save_training_result",
    "select_interpolation",
    "stratified_split",
    "teacher_labels",
    "train_val_split",
    "validation_part",
    "zero_shot_accuracy",
]
