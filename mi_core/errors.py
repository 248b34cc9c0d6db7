"""Every error that this library raises on purpose.

A message says what failed, what was seen and what to do; the values are attributes of the error.

    MiError
    ├── SpecError                 what was asked of the hooks cannot be done
    │   ├── UnknownPoint              no such point in this model
    │   ├── ReadOnlyPoint             the point exists, a write to it is refused
    │   ├── SelectorError             a dimension the site lacks, an index out of range, nothing selected
    │   ├── SpanError                 a text that is not in the prompt, or is there several times
    │   ├── ValueMismatch             a value whose shape, dtype or source does not fit the point
    │   ├── ChangedInPlace            a tensor was edited after it entered a spec or a run
    │   ├── NotSerialisable           a spec that holds a function or a module cannot be saved
    │   └── MissingActivation         the run did not capture what is read from it
    ├── InputError                a prompt, mask or position that the model cannot take
    │   ├── EmptyInput
    │   ├── TokenOutOfRange
    │   ├── ContextOverflow
    │   └── MaskMismatch
    ├── TokenizerError            text cannot be turned into tokens or back
    │   ├── NoTokenizer
    │   ├── NotSingleToken
    │   └── ChatTemplateError
    ├── MemoryMismatch            a memory that does not continue with these rows or this model
    │   └── NotRecorded               a memory cannot be cut where it was not asked to record
    ├── LoadError                 a checkpoint cannot be read exactly
    │   ├── ModelNotFound
    │   ├── BadConfig
    │   ├── UnusedConfig
    │   ├── UnknownFamily
    │   ├── UnknownFormat
    │   ├── UnusedTensors
    │   ├── MissingTensors
    │   ├── TensorMismatch
    │   ├── CorruptCheckpoint
    │   └── NotLoaded                 weights were never filled in
    ├── PluginError               a plugin cannot be used
    │   ├── UnknownPlugin
    │   ├── BrokenPlugin
    │   └── PluginConflict
    ├── HarvestError              a harvest cannot be written, gone on with or read
    │   ├── HarvestMismatch           the folder holds a harvest of something else
    │   ├── HarvestLocked             somebody else is harvesting into the folder
    │   └── CorruptShard              a shard that is not as it was written
    ├── UnsupportedAnalysis       the model lacks what an analysis needs
    ├── NotCompiled               a run that cannot be compiled was asked to be
    ├── HookContractBroken        a backend did not do what its sites declare
    ├── UnknownCheck              no such check in the conformance kit, or none that applies
    └── CheckFailed               a property of the conformance kit does not hold
"""

from __future__ import annotations

__all__ = [
    "BadConfig",
    "BrokenPlugin",
    "ChangedInPlace",
    "ChatTemplateError",
    "CheckFailed",
    "ContextOverflow",
    "CorruptCheckpoint",
    "CorruptShard",
    "EmptyInput",
    "HarvestError",
    "HarvestLocked",
    "HarvestMismatch",
    "HookContractBroken",
    "InputError",
    "LoadError",
    "MaskMismatch",
    "MemoryMismatch",
    "MiError",
    "MissingActivation",
    "MissingTensors",
    "ModelNotFound",
    "NoTokenizer",
    "NotCompiled",
    "NotLoaded",
    "NotRecorded",
    "NotSerialisable",
    "NotSingleToken",
    "PluginConflict",
    "PluginError",
    "ReadOnlyPoint",
    "SelectorError",
    "SpanError",
    "SpecError",
    "TensorMismatch",
    "TokenOutOfRange",
    "TokenizerError",
    "UnknownCheck",
    "UnknownFamily",
    "UnknownFormat",
    "UnknownPlugin",
    "UnknownPoint",
    "UnsupportedAnalysis",
    "UnusedConfig",
    "UnusedTensors",
    "ValueMismatch",
]


class MiError(Exception):
    """The base of all errors of this library: ``MiError(message, **data)`` keeps ``data`` as attributes.

    >>> error = UnknownPoint("llama has no point 'x'", name="x")
    >>> error.name, isinstance(error, MiError)
    ('x', True)
    """

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.data = data

    def __getattr__(self, name: str) -> object:
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; it has {sorted(data)}")


class SpecError(MiError):
    """What was asked of the hooks cannot be done."""


class UnknownPoint(SpecError):
    """No such point in this model, or a pattern that matches none."""


class ReadOnlyPoint(SpecError):
    """The point exists and can be read; a write to it is refused, with the reason."""


class SelectorError(SpecError):
    """A selector names a dimension that the site lacks, an index out of range, or nothing at all."""


class SpanError(SpecError):
    """A text that does not occur in the prompt, or occurs several times."""


class ValueMismatch(SpecError):
    """A value whose shape, dtype or source does not fit the point that it should be written to."""


class ChangedInPlace(SpecError):
    """A tensor was edited in place after it entered a spec or a run."""


class NotSerialisable(SpecError):
    """A spec that holds a function or a module cannot be saved."""


class MissingActivation(SpecError, KeyError):
    """The run did not capture the point that is read from it."""

    # KeyError prints repr(message); a sentence is wanted.
    __str__ = Exception.__str__


class InputError(MiError):
    """A prompt, mask or position that the model cannot take."""


class EmptyInput(InputError):
    """A prompt, or a batch of prompts, without a single token."""


class TokenOutOfRange(InputError):
    """A token id outside the vocabulary."""


class ContextOverflow(InputError):
    """A prompt longer than the positions that the model has."""


class MaskMismatch(InputError):
    """An attention mask or position ids that do not fit the tokens."""


class TokenizerError(MiError):
    """Text cannot be turned into tokens, or tokens into text."""


class NoTokenizer(TokenizerError):
    """The model has no tokenizer, so it takes ids only."""


class NotSingleToken(TokenizerError):
    """A text that should be one token is several."""


class ChatTemplateError(TokenizerError):
    """The checkpoint has no chat template, or its template refuses or rewrites the messages."""


class MemoryMismatch(MiError):
    """A memory that does not continue with these rows, or belongs to another model."""


class NotRecorded(MemoryMismatch):
    """A memory cannot be cut at a length at which it was not asked to record."""


class LoadError(MiError):
    """A checkpoint cannot be read exactly."""


class ModelNotFound(LoadError):
    """No embedded model, folder or Hub repository of that name, or a file of it is absent."""


class BadConfig(LoadError):
    """A config.json that is not valid, contradicts itself, or lacks a needed key."""


class UnusedConfig(LoadError):
    """Config keys that may change the numbers and that nobody read."""


class UnknownFamily(LoadError):
    """No installed family reads this model_type."""


class UnknownFormat(LoadError):
    """No installed format reads these files as a dictionary, or several do."""


class UnusedTensors(LoadError):
    """Tensors of the checkpoint that went nowhere."""


class MissingTensors(LoadError):
    """Parameters of the model that the checkpoint does not fill."""


class TensorMismatch(LoadError):
    """A tensor of the checkpoint with another shape than the config implies."""


class CorruptCheckpoint(LoadError):
    """A weights file that is truncated, not what it claims to be, outside its folder, gone or changed since."""


class NotLoaded(LoadError):
    """A parameter or buffer of the model holds no numbers yet."""


class PluginError(MiError):
    """A plugin cannot be used."""


class UnknownPlugin(PluginError):
    """No installed plugin has this name."""


class BrokenPlugin(PluginError):
    """A plugin that cannot be imported or breaks the contract of its hook."""


class PluginConflict(PluginError):
    """Two distributions claim one name."""


class HarvestError(MiError):
    """A harvest cannot be written, gone on with or read."""


class HarvestMismatch(HarvestError):
    """The folder holds a harvest of another model, with other settings or of other data."""


class HarvestLocked(HarvestError):
    """Somebody else is harvesting into the folder."""


class CorruptShard(HarvestError):
    """A shard of a harvest that is missing, truncated, or not as it was written."""


class UnsupportedAnalysis(MiError):
    """The model lacks what an analysis needs."""


class NotCompiled(MiError):
    """A run that cannot be compiled was asked to be."""


class HookContractBroken(MiError):
    """A backend did not do what its sites declare: a point never fired, or fired with other dimensions."""


class UnknownCheck(MiError):
    """The conformance kit has no check of this name, or none that applies."""


class CheckFailed(MiError, AssertionError):
    """A property of the conformance kit does not hold for a subject."""
