from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmfasternet.checkpoints import load_for_mmengine, read_checkpoint
from mmfasternet.checkpoints.download import download
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet


def test_a_url_is_fetched_once_and_kept(web_server, tmp_path):
    address, requests = web_server
    weights = FasterNet('t0', out_norm=False).state_dict()
    torch.save(weights, tmp_path / 'site' / 'weights.pth')
    for _ in range(2):
        content = load_for_mmengine(f'{address}/weights.pth?raw=true')
        assert len(content['state_dict']) == len(weights)
    assert len(requests) == 1
    assert (tmp_path / 'hub' / 'checkpoints' / 'weights.pth').is_file()


def test_many_ask_for_it_and_it_is_fetched_once(web_server, tmp_path):
    address, requests = web_server
    (tmp_path / 'site' / 'file.pth').write_bytes(b'x' * 10**6)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(download, [f'{address}/file.pth'] * 4))
    assert len(set(paths)) == 1 and len(requests) == 1


def test_a_web_page_in_its_place_is_named_with_its_local_copy(web_server, tmp_path):
    address, _ = web_server
    (tmp_path / 'site' / 'page.pth').write_text('<!DOCTYPE html><html>Sign in</html>')
    with pytest.raises(CheckpointError, match=r'hub/checkpoints/page\.pth.*web page.*Remove it'):
        read_checkpoint(f'{address}/page.pth')


@pytest.mark.parametrize('path', ['/absent.pth', ':1/weights.pth'])
def test_what_cannot_be_had_is_named_with_address_and_place(web_server, tmp_path, path):
    address, _ = web_server
    url = address + path if path.startswith('/') else 'http://127.0.0.1' + path
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(url)
    for part in (f'{path.split("/")[-1]} could not be downloaded', url, f'{tmp_path}/hub/checkpoints/', 'init_cfg'):
        assert part in str(caught.value)
    assert not list((tmp_path / 'hub').rglob('*.pth'))
