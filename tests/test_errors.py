"""The errors of kvgpu as such."""

import pickle

import pytest

from kvgpu import errors

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.KVGPUError)]
SPECIAL = {errors.UnknownNameError: ("color", "red", ["blue", "green"]), errors.NoneHashError: ()}


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_of_another_process_arrives_as_it_was(cls):
    error = cls(*SPECIAL.get(cls, ("it broke",)))
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived)) == (cls, str(error))


def test_an_unknown_name_is_said_with_those_that_are_known():
    assert str(errors.UnknownNameError("color", "red", ["green", "blue"])) == "unknown color 'red'; known: blue, green"
