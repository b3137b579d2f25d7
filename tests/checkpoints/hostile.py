"""Files that carry code, made by the tests that see them refused."""

import os

import torch


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_file(folder, where, **options):
    """A checkpoint that makes the folder ``ran`` when it is unpickled, by ``os.system`` somewhere inside it."""
    call = Call(os.system, f'mkdir {folder / "ran"}')
    content = {
        'alone': call,
        'in meta': dict(state_dict=dict(weight=torch.zeros(1)), meta=dict(epoch=1, config=call)),
        'in a nested list': dict(state_dict=dict(weight=torch.zeros(1)), message_hub=[1, [2, [3, call]]]),
        'among the weights': dict(state_dict=dict(weight=torch.zeros(1), bias=call)),
        'as a key': dict(state_dict=dict(weight=torch.zeros(1)), meta={(1, call): 2}),
    }[where]
    path = folder / 'hostile.pth'
    torch.save(content, path, **options)
    return path
