"""Teachers loaded and frozen, students built, label spaces aligned."""

from distilect.models.attention import attention_maps, captured, keeps_attention
from distilect.models.checkpoints import checkpoint_fingerprint, quiet, resolve_path
from distilect.models.dropout import sampling, set_dropout
from distilect.models.encoders import EncoderTeacher
from distilect.models.head import head_reader
from distilect.models.labels import align_labels
from distilect.models.layers import cut_layers, even_layer_map, even_layers
from distilect.models.precision import autocast, default_device, resolve_precision
from distilect.models.students import Student, build_student, checkpoint_depth, parse_spec
from distilect.models.teachers import (
    CallableTeacher,
    CheckpointTeacher,
    TableTeacher,
    Teacher,
    classification_positions,
    load_teacher,
    per_token,
    same_tokens,
)

__all__ = [
    "CallableTeacher",
    "CheckpointTeacher",
    "EncoderTeacher",
    "Student",
    "TableTeacher",
    "Teacher",
    "align_labels",
    "attention_maps",
    "autocast",
    "build_student",
    "captured",
    "checkpoint_depth",
    "checkpoint_fingerprint",
    "classification_positions",
    "cut_layers",
    "default_device",
    "even_layer_map",
    "even_layers",
    "head_reader",
    "keeps_attention",
    "load_teacher",
    "parse_spec",
    "per_token",
    "quiet",
    "resolve_path",
    "resolve_precision",
    "same_tokens",
    "sampling",
    "set_dropout",
]
