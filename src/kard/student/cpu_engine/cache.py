"""Keys and values of what has been read and written: room for more, and memory that stays from batch to batch."""

from __future__ import annotations

import math
import sys
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from kard.student.cpu_engine.attention import MANY

_ROOM = 32  # tokens that are made room for at once


class Buffers:
    """Memory for keys and values that the next batch uses again; several threads may.

    Freed and allocated anew for each batch, these large blocks of ever other sizes scatter the heap: a server's grew by hundreds
    of MB within minutes.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = Lock()

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of this shape and of the format of `like`, with anything in it."""
        count = math.prod(shape)
        with self._lock:
            kept = [one for one in self._free if (one.dtype, one.device) == (like.dtype, like.device)]
            best = min((one for one in kept if one.numel() >= count), key=Tensor.numel, default=None)
            # What is too small for a batch gives its place to something larger.
            gone = best if best is not None else min(kept, key=Tensor.numel, default=None)
            self._free = [one for one in self._free if one is not gone]
        if best is None:
            step = 2 ** max(0, count.bit_length() - 3)  # batches differ a little
            best = like.new_empty(math.ceil(count / step) * step)
        return best[:count].view(shape)

    def give(self, tensor: Tensor) -> None:
        """Take back what `take` gave, by any view of it."""
        whole = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
        with self._lock:
            self._free.append(whole)

    def clear(self) -> None:
        """Free what is not in use."""
        with self._lock:
            self._free.clear()


def roomy_cache(config: Any, buffers: Buffers, whole: bool = False) -> DynamicCache:
    """A cache whose attention layers do not copy all of their keys and values at every token.

    A sliding window is left to the mask, which is right for any length; the window would only save memory.

    Args:
        config: The decoder's.
        buffers: Where its memory is from.
        whole: Attention over many rows gets the room as well, masked: PyTorch's products on CPUs copy what has gaps.
    """
    cache = DynamicCache(config=config)
    windows = [
        layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else sys.maxsize for layer in cache.layers
    ]
    cache.layers = [RoomyLayer(buffers, whole, window) for window in windows]
    return cache


def end_cache(cache: DynamicCache) -> None:
    """Give a cache's buffers back; nothing may be read in it any more."""
    for layer in cache.layers:
        layer.end()


class RoomyLayer(DynamicLayer):
    """Keys and values as views into buffers (rows, heads, tokens and room for more, dimension).

    Args:
        buffers: Where their memory is from.
        whole: Whether `update` returns the buffers, where there are as many rows as are worth it.
        window: Tokens that a token sees.
    """

    keys: Any
    values: Any
    key_buffer: Tensor
    value_buffer: Tensor

    def __init__(self, buffers: Buffers, whole: bool, window: int = sys.maxsize) -> None:
        super().__init__()
        self.buffers = buffers
        self.whole = whole
        self.window = window
        self.lock = Lock()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        length = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        longer = length + key_states.shape[-2]
        if length == 0 or longer > self.key_buffer.shape[-2]:
            self.key_buffer = self._with_room(self.keys, key_states, longer)
            self.value_buffer = self._with_room(self.values, value_states, longer)
        self.key_buffer[:, :, length:longer] = key_states
        self.value_buffer[:, :, length:longer] = value_states
        self.keys, self.values = self.key_buffer[:, :, :longer], self.value_buffer[:, :, :longer]
        if length == 0:
            return key_states, value_states
        return (self.key_buffer, self.value_buffer) if self._gives_all else (self.keys, self.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys `update` is about to return, and the place of the first."""
        length = self.get_seq_length()
        longer = length + query_length
        if length == 0 or not self._gives_all:
            return longer, 0
        room = self.key_buffer.shape[-2]
        return room if longer <= room else longer + _ROOM, 0

    @property
    def _gives_all(self) -> bool:
        return self.whole and len(self.key_buffer) >= MANY

    def fill(self, rows: Tensor, shape: torch.Size, key_states: Tensor, value_states: Tensor) -> None:
        """Take what a group of rows has read, in a batch of this shape (rows, tokens); several threads may do so."""
        count, length = shape
        heads, width, dimension = key_states.shape[1:]
        with self.lock:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                room = (count, heads, length + _ROOM)
                self.key_buffer = self._zeros((*room, dimension), key_states)
                self.value_buffer = self._zeros((*room, value_states.shape[-1]), value_states)
        self.key_buffer[rows, :, length - width : length] = key_states
        self.value_buffer[rows, :, length - width : length] = value_states

    def end_groups(self, length: int) -> None:
        """Go on with all rows, once each of them has been read in a group."""
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows, each as often as it is named."""
        length = self.get_seq_length()
        self.key_buffer = self._rows(self.key_buffer, beam_idx)
        self.value_buffer = self._rows(self.value_buffer, beam_idx)
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]

    def end(self) -> None:
        """See `end_cache`."""
        if self.is_initialized:
            self.buffers.give(self.key_buffer)
            self.buffers.give(self.value_buffer)

    def _rows(self, buffer: Tensor, indices: Tensor) -> Tensor:
        shape = (len(indices), *buffer.shape[1:])
        chosen = torch.index_select(buffer, 0, indices, out=self.buffers.take(shape, buffer))
        self.buffers.give(buffer)
        return chosen

    def _with_room(self, old: Tensor, new: Tensor, length: int) -> Tensor:
        rows, heads, _, dimension = new.shape
        buffer = self._zeros((rows, heads, length + _ROOM, dimension), new)
        if old.numel():
            buffer[:, :, : old.shape[-2]] = old
            self.buffers.give(old)
        return buffer

    def _zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        # What is masked is multiplied by zero: it has to be a number.
        return self.buffers.take(shape, like).zero_()


class GroupLayer(DynamicLayer):
    """What a group of rows reads goes into the layer of the whole batch, whose shape is (rows, tokens)."""

    def __init__(self, whole: RoomyLayer, rows: Tensor, shape: torch.Size) -> None:
        super().__init__()
        self.whole, self.rows, self.shape = whole, rows, shape

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.whole.fill(self.rows, self.shape, key_states, value_states)
        return key_states, value_states
