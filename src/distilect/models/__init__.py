"""Teachers loaded and frozen, students built, label spaces aligned."""

from distilect.models.adapters import check_peft, has_adapters, load_adapters, merge_adapters, save_adapters
from distilect.models.attention import attention_maps, captured, keeps_attention
from distilect.models.checkpoints import (
    check_checkpoint,
    checkpoint_fingerprint,
    is_language_checkpoint,
    load_pretrained,
    quiet,
    resolve_path,
)
from distilect.models.dropout import sampling, set_dropout
from distilect.models.encoders import EncoderTeacher
from distilect.models.endpoint import Answer, EndpointTeacher
from distilect.models.head import head_reader
from distilect.models.labels import align_labels
from distilect.models.language import (
    CHUNK,
    candidate_logits,
    entropy_share,
    is_language_model,
    output_head,
    token_pass,
    token_scores,
)
from distilect.models.layers import cut_layers, even_layer_map, even_layers
from distilect.models.precision import autocast, default_device, resolve_precision
from distilect.models.students import Student, build_student, checkpoint_depth, parse_spec
from distilect.models.teachers import (
    CallableTeacher,
    CheckpointTeacher,
    LanguageTeacher,
    TableTeacher,
    Teacher,
    classification_positions,
    load_teacher,
    per_token,
    same_tokens,
    stored_name,
)
from distilect.models.tokenizers import load_tokenizer, usable_length
from distilect.models.vocabulary import VOCABULARY_DIGEST, Vocabulary, find_vocabulary, with_vocabulary
from distilect.models.words import at_words, per_unit, split_words

__all__ = [
    "CHUNK",
    "VOCABULARY_DIGEST",
    "Answer",
    "CallableTeacher",
    "CheckpointTeacher",
    "EncoderTeacher",
    "EndpointTeacher",
    "LanguageTeacher",
    "Student",
    "TableTeacher",
    "Teacher",
    "Vocabulary",
    "align_labels",
    "at_words",
    "attention_maps",
    "autocast",
    "build_student",
    "candidate_logits",
    "captured",
    "check_checkpoint",
    "check_peft",
    "checkpoint_depth",
    "checkpoint_fingerprint",
    "classification_positions",
    "cut_layers",
    "default_device",
    "entropy_share",
    "even_layer_map",
    "even_layers",
    "find_vocabulary",
    "has_adapters",
    "head_reader",
    "is_language_checkpoint",
    "is_language_model",
    "keeps_attention",
    "load_adapters",
    "load_pretrained",
    "load_teacher",
    "load_tokenizer",
    "merge_adapters",
    "output_head",
    "parse_spec",
    "per_token",
    "per_unit",
    "quiet",
    "resolve_path",
    "resolve_precision",
    "same_tokens",
    "sampling",
    "save_adapters",
    "set_dropout",
    "split_words",
    "stored_name",
    "token_pass",
    "token_scores",
    "usable_length",
    "with_vocabulary",
]
