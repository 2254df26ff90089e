"""Teachers loaded and frozen, students built, label spaces aligned."""

from distilect.models.attention import attention_maps, captured, keeps_attention
from distilect.models.checkpoints import check_checkpoint, checkpoint_fingerprint, load_pretrained, quiet, resolve_path
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
from distilect.models.vocabulary import VOCABULARY_DIGEST, Vocabulary, find_vocabulary, with_vocabulary

__all__ = [
    "VOCABULARY_DIGEST",
    "CallableTeacher",
    "CheckpointTeacher",
    "EncoderTeacher",
    "Student",
    "TableTeacher",
    "Teacher",
    "Vocabulary",
    "align_labels",
    "attention_maps",
    "autocast",
    "build_student",
    "captured",
    "check_checkpoint",
    "checkpoint_depth",
    "checkpoint_fingerprint",
    "classification_positions",
    "cut_layers",
    "default_device",
    "even_layer_map",
    "even_layers",
    "find_vocabulary",
    "head_reader",
    "keeps_attention",
    "load_pretrained",
    "load_teacher",
    "parse_spec",
    "per_token",
    "quiet",
    "resolve_path",
    "resolve_precision",
    "same_tokens",
    "sampling",
    "set_dropout",
    "with_vocabulary",
]
