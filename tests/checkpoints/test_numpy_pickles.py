"""numpy's arrays and numbers in checkpoints, whichever release of numpy wrote them and reads them."""

import base64
import io
import zipfile
import zlib

import numpy as np
import pytest
import torch

from mmfasternet.checkpoints import read_checkpoint
from tests.checkpoints.hostile import Call

VALUES = dict(
    c=np.arange(6.).reshape(2, 3), fortran=np.asfortranarray(np.arange(6, dtype='int16').reshape(2, 3)),
    bools=np.array([True, False]), empty=np.zeros((0, 2), 'float32'), zero=np.array(5), number=np.float32(1.5),
    yes=np.True_, no=np.False_)
# The pickle of these by numpy 2.2.6 with PyTorch 2.11, and by numpy 2.5.5 with PyTorch 2.14: the same, byte by byte.
PICKLED = zlib.decompress(base64.b64decode(
    'eNp1kttu00AQhtdO0gZToEA5H8qZhEIgpUAKhYQz1BBgOZmDZHkdVxspsfPbmwsjkHpTt3kb3qEPBru2gxAte+FZ2TP/9894VvUfIBVLI4S40Fx/'
    '2B/ENdsNQq/WH/ZE1wlDJzbs0HMDPxLh0BUG9CzN8DvZVxRMsoaiK8s6nhsZnq8uBkqpLMOENSFjzxFdv47JBGWKHeswKHZWTM3UzUKCqVyyI+KB'
    'rNxl6bJipYHdo4117KGYrpiFVG0Je9vt9vIvedKHSQT2sREvWXXy79n82cxvrSyU8zidx5kW9nNpaIbigMBBZk0qahCK0PFxiOs8bewwl26PUBz9'
    '4/YYzwx253FcGTxBcVIa5FutzbINaW0qpRWIRopEJyWCU4p6muKMwFlmldSUgqAX4dyYeV4xL1BcTJlrqOREVkdVES9RzI1H8h2Xt3CvpCNRFRpB'
    'TdGuUlwTqGc0rz8QMebHtOuKtkBxQ9GIqSe4mfNWFnBL8RoUi9t3eJuNXNtmw65cFt+2DRYLLzJwp0qxJHCXWUUp880LA9wb45oK16K4L3HV8Sgb'
    'eKBADykebQ96nLZUlrml/K/iiWrsKcUzgecsXTK5RcwLsfy/RY5cp+eEBky+KMUyoc3VJl4opZcU7QSvKF5bBfk+9iK84Saf49kia6Aq6y3FuwTv'
    'KT6kxv0AH/9KIrBU0ieKzwm+UHwd1n4DYIMA0Q=='))


def archive(pickled):
    """PyTorch's file around a pickle."""
    original, made = io.BytesIO(), io.BytesIO()
    torch.save({}, original)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(made, 'w') as target:
        for entry in source.infolist():
            target.writestr(entry, pickled if entry.filename.endswith('data.pkl') else source.read(entry))
    return made.getvalue()


@pytest.mark.parametrize('written', ['here', 'by 2.2 and 2.5'])
def test_what_each_release_writes_is_read_by_each(tmp_path, written):
    torch.save(VALUES, tmp_path / 'a.pth')
    if written != 'here':
        (tmp_path / 'a.pth').write_bytes(archive(PICKLED))
    content = read_checkpoint(str(tmp_path / 'a.pth'))
    for name, expected in VALUES.items():
        found = content[name]
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.shape, found.flags.fnc) == (expected.dtype, expected.shape, expected.flags.fnc), name
    assert type(content['yes']) is np.bool_ and content['yes'] and not content['no']


@pytest.mark.parametrize('fortran_order', [False, True, 0, 1, np.False_, np.True_])
def test_the_order_is_any_truth_value(tmp_path, fortran_order):
    """numpy 2.5 refuses its own, which other writers than numpy may take."""

    class Written(Call):

        def __reduce__(self):
            return (*self.call, (1, (2, 2), np.dtype('u1'), fortran_order, bytes([1, 2, 3, 4])))

    torch.save(dict(array=Written(np._core.multiarray._reconstruct, np.ndarray, (0, ), b'b')), tmp_path / 'a.pth')
    expected = [[1, 3], [2, 4]] if fortran_order else [[1, 2], [3, 4]]
    assert read_checkpoint(str(tmp_path / 'a.pth'))['array'].tolist() == expected


def test_a_type_is_pickled_again_as_numpys(tmp_path):
    torch.save(dict(weight=torch.zeros(1), meta=dict(dtype=np.dtype('float32'))), tmp_path / 'a.pth')
    content = read_checkpoint(str(tmp_path / 'a.pth'))
    torch.save(content, tmp_path / 'b.pth')
    assert torch.load(tmp_path / 'b.pth', weights_only=False)['meta']['dtype'] == np.float32
    read_checkpoint(str(tmp_path / 'b.pth'))
