import pytest
from torch.utils.data import DataLoader, Dataset

from mmfasternet.engine.cli import one_line_errors
from mmfasternet.errors import DataError


class Broken(Dataset):

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("image 'a.jpg' is broken")


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_is_one_line_also_from_a_worker(capsys, workers):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        next(iter(DataLoader(Broken(), num_workers=workers)))
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: image 'a.jpg' is broken\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
