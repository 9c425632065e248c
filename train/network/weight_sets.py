"""The sets of weights in a checkpoint: where they are, which one is taken, and which tensors are no weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vgg_deploy.errors import CheckpointError, UsageError

# A convolution's name, behind any prefix: torchvision's and timm's, or the paper's.
_CONVOLUTION = re.compile(r"(?P<prefix>(?:.*\.)?)(?:features\.\d+|conv\d_\d)\.weight")
# Words for averaged weights: model_ema (torchvision), state_dict_ema (timm), ema_state_dict, averaged, swa_model, ...
_AVERAGED = {"ema", "avg", "average", "averaged", "swa"}
_RAW_BESIDE_AVERAGED = "current_model_state"  # Lightning's WeightAveraging puts the averaged weights into state_dict
# Buffers that are no weights, by the last part of their name: counters of batch norm, torch's AveragedModel and thop,
# and ModelOpt's ranges.
_BUFFERS = {"num_batches_tracked", "n_averaged", "total_ops", "total_params", "_amax"}
# The user's modules for losses and metrics, by the first part of their name.
_MEASURES = re.compile(
    r"(.*_)?(criterion|loss|losses|loss_fn|loss_func|metrics?|acc|acc1|acc5|accuracy|auroc|f1|precision|recall)"
)
_PIXELS = {"mean", "std", "pixel_mean", "pixel_std"}  # buffers of a network that normalizes its pixels itself
_DEEPEST = 4  # levels of mappings that are searched


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One set of weights.

    Attributes:
        name: where it is in the file, such as state_dict; "" if the file holds it alone.
        tensors: by their names, without what stands before the names of the convolutions.
        passed_over: tensors beside them that are no weights, by their full names.
        notices: what the user should know of the choice.
    """

    name: str
    tensors: dict[str, Tensor]
    passed_over: dict[str, Tensor]
    notices: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is an average over training steps."""
        return bool(_AVERAGED & set(re.split(r"[._\-]", self.name.casefold())))

    @property
    def has_classifier(self) -> bool:
        """Whether it has weights other than those of convolutions and batch norms. Losses on features have none."""
        return any(
            name.endswith(".weight") and not re.fullmatch(r"features\.\d+\.weight|conv\d_\d\.weight", name)
            for name in self.tensors
        )


def prefixes_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """What stands before the names of the convolutions, such as "model."; once for each network."""
    found = (_CONVOLUTION.fullmatch(name) for name, tensor in tensors.items() if tensor.ndim == 4)
    return list(dict.fromkeys(match["prefix"] for match in found if match is not None))


def chosen_weights(loaded: Any, key: str | None, where: str) -> WeightSet:
    """The set of weights to take: the one that `key` names, the only one, or the averaged one of two.

    Args:
        loaded: what the file holds: mappings within mappings, with tensors by name.
        key: the name of a set, or the part of it that no other set has.
        where: names the file in messages.

    Raises:
        CheckpointError: the file holds no tensors.
        UsageError: no set has the key; or there are several sets and no rule to choose.
    """
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{where} holds a {type(loaded).__name__}; expected a state_dict, which maps names to tensors"
        )
    mappings = list(_mappings(loaded, (), 0))
    if not mappings:
        raise CheckpointError(f"{where} holds no tensors; expected a state_dict, alone or under a name of its own")
    sets = [found for path, tensors in mappings for found in _sets_of(path, tensors)]
    if not sets:  # an unknown network: the largest mapping, whose names an error will show
        path, tensors = max(mappings, key=lambda item: len(item[1]))
        sets = [WeightSet(path, tensors, {})]
    if key is not None:
        return _named(sets, key, where)
    whole = [found for found in sets if found.has_classifier] or sets
    chosen, reason = _preferred(whole, where)
    others = [found for found in sets if found is not chosen]
    if not others:
        return chosen
    notice = f"{where} holds {len(sets)} sets of weights; {chosen.name or 'the unnamed one'} is taken, {reason} " + (
        "(--key takes another: " + ", ".join(found.name or "''" for found in others) + ")"
    )
    return WeightSet(chosen.name, chosen.tensors, chosen.passed_over, (notice,))


def passed_over_notice(passed_over: Mapping[str, Tensor], where: str) -> str | None:
    """Names the tensors that were passed over, in one line. None if there are none.

    Tensors of three numbers are shown: they may be the mean or the divisor of pixels.
    """
    if not passed_over:
        return None
    counts = Counter(name.rpartition(".")[2] if _is_buffer(name) else name for name in passed_over)
    texts = []
    for name, count in counts.items():
        tensor = passed_over.get(name)
        if count > 1:
            texts.append(f"{count} x {name}")
        elif tensor is not None and tensor.numel() == 3:
            texts.append(f"{name} = {','.join(f'{value:.6g}' for value in tensor.flatten().tolist())}")
        else:
            texts.append(name)
    more = f" and {len(texts) - 6} more" if len(texts) > 6 else ""
    return f"{where}: passed over, because they are no weights of the network: {', '.join(texts[:6])}{more}"


def _mappings(loaded: Mapping[Any, Any], path: tuple[str, ...], depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each mapping that holds tensors by name, with its place in the file. Optimizers are left out."""
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    inner = [(str(name), value) for name, value in loaded.items() if isinstance(value, Mapping)]
    if tensors:
        yield ".".join(path), tensors
    if depth < _DEEPEST:
        for name, value in inner:
            if not name.startswith("optim"):
                yield from _mappings(value, (*path, name), depth + 1)


def _sets_of(path: str, tensors: dict[str, Tensor]) -> Iterator[WeightSet]:
    """One set for each prefix of convolutions in a mapping."""
    prefixes = prefixes_of(tensors)
    for prefix in prefixes:
        name = path if len(prefixes) == 1 else ".".join(part for part in (path, prefix.removesuffix(".")) if part)
        longer = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        inside = {
            full.removeprefix(prefix): tensor
            for full, tensor in tensors.items()
            if full.startswith(prefix) and not (longer and full.startswith(longer))
        }
        found = WeightSet(name, inside, {})
        others = tuple(other for other in prefixes if other != prefix and other)
        outside = {
            full: tensor
            for full, tensor in tensors.items()
            if not full.startswith(prefix) and not full.startswith(others) and "" not in prefixes
        }
        kept = inside if found.has_classifier else {**outside, **inside}  # a head may stand beside the convolutions
        dropped = {part: tensor for part, tensor in kept.items() if _is_no_weight(part, tensor)}
        weights = {part: tensor for part, tensor in kept.items() if part not in dropped}
        full_names = {prefix + part if part in inside else part: tensor for part, tensor in dropped.items()}
        yield WeightSet(name, weights, {**full_names, **(outside if kept is inside else {})})


def _is_no_weight(name: str, tensor: Tensor) -> bool:
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if _is_buffer(name) or (last in _PIXELS and tensor.numel() == 3):
        return True
    return "." in name and _MEASURES.fullmatch(first.casefold()) is not None


def _is_buffer(name: str) -> bool:
    return name.rpartition(".")[2] in _BUFFERS


def _named(sets: list[WeightSet], key: str, where: str) -> WeightSet:
    """The set with this name, or with this part of a name that no other set has."""
    exact = [found for found in sets if found.name == key]
    found = exact or [found for found in sets if f".{key}." in f".{found.name}."]
    if len(found) == 1:
        return found[0]
    names = ", ".join(found.name for found in sets if found.name)
    held = f"holds these sets of weights: {names}" if names else "holds one set of weights, without a name"
    advice = "" if names else "; leave --key out"
    what = f"several sets of weights with {key!r}" if found else f"no set of weights {key!r}"
    raise UsageError(f"{where} has {what}; it {held}{advice}")


def _preferred(sets: list[WeightSet], where: str) -> tuple[WeightSet, str]:
    """The set to take, and why."""
    if len(sets) == 1:
        return sets[0], "because only it has a classifier"
    by_last = {found.name.rpartition(".")[2]: found for found in sets}
    if len(sets) == 2 and by_last.keys() == {"state_dict", _RAW_BESIDE_AVERAGED}:
        return by_last["state_dict"], f"because Lightning averages it and keeps the raw ones in {_RAW_BESIDE_AVERAGED}"
    averaged = [found for found in sets if found.averaged]
    if len(sets) == 2 and len(averaged) == 1:
        return averaged[0], "because training programs choose their best epoch by the averaged weights"
    if all(_equal(found, sets[0]) for found in sets[1:]):
        return sets[0], "because all are equal"
    names = ", ".join(found.name or "one without a name" for found in sets)
    raise UsageError(
        f"{where} holds {len(sets)} sets of weights: {names}; say which to take with --key NAME, or save it alone"
    )


def _equal(first: WeightSet, second: WeightSet) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items()
    )
