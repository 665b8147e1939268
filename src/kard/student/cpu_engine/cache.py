"""Keys and values of what has been read and written, with room for more."""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_ROOM = 32  # tokens that are made room for at once


def roomy_cache(config: Any) -> DynamicCache:
    """A cache for a decoder's config whose attention layers do not copy all of their keys and values at every token.

    A sliding window is left to the mask, which is right for any length; the window would only save memory.
    """
    cache = DynamicCache(config=config)
    windows = [
        layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else sys.maxsize for layer in cache.layers
    ]
    cache.layers = [RoomyLayer(window) for window in windows]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values as views into buffers (rows, heads, tokens and room for more, dimension).

    Args:
        window: Tokens that a token sees.
    """

    keys: Any
    values: Any
    key_buffer: Tensor
    value_buffer: Tensor

    def __init__(self, window: int = sys.maxsize) -> None:
        super().__init__()
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
        return (self.keys, self.values) if length else (key_states, value_states)

    def fill(self, rows: Tensor, shape: torch.Size, key_states: Tensor, value_states: Tensor) -> None:
        """Take what a group of rows has read, in a batch of this shape (rows, tokens); several threads may do so."""
        count, length = shape
        heads, width, dimension = key_states.shape[1:]
        with self.lock:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                room = (count, heads, length + _ROOM)
                self.key_buffer = key_states.new_zeros((*room, dimension))
                self.value_buffer = value_states.new_zeros((*room, value_states.shape[-1]))
        self.key_buffer[rows, :, length - width : length] = key_states
        self.value_buffer[rows, :, length - width : length] = value_states

    def end_groups(self, length: int) -> None:
        """Go on with all rows, once each of them has been read in a group."""
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows, each as often as it is named."""
        length = self.get_seq_length()
        self.key_buffer, self.value_buffer = self.key_buffer[beam_idx], self.value_buffer[beam_idx]
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]

    def _with_room(self, old: Tensor, new: Tensor, length: int) -> Tensor:
        rows, heads, _, dimension = new.shape
        buffer = new.new_zeros((rows, heads, length + _ROOM, dimension))
        if old.numel():
            buffer[:, :, : old.shape[-2]] = old
        return buffer


class GroupLayer(DynamicLayer):
    """What a group of rows reads goes into the layer of the whole batch, whose shape is (rows, tokens)."""

    def __init__(self, whole: RoomyLayer, rows: Tensor, shape: torch.Size) -> None:
        super().__init__()
        self.whole, self.rows, self.shape = whole, rows, shape

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.whole.fill(self.rows, self.shape, key_states, value_states)
        return key_states, value_states
