import os

import pytest

from mmfasternet.cli.metrics import print_metrics


def test_coco_metrics_are_a_table(capsys):
    names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
    metrics = {f'coco/bbox_{name}': (i + 1) / 10 for i, name in enumerate(names)}
    metrics |= {f'coco/segm_{name}': (i + 2) / 10 for i, name in enumerate(names)}
    metrics['coco/segm_mAP_l'] = -1.
    print_metrics(metrics, ['CocoMetric'])
    rows = [line.replace('│', ' ').split() for line in capsys.readouterr().out.splitlines()]
    assert ['box', '0.100', '0.200', '0.300', '0.400', '0.500', '0.600'] in rows
    assert ['mask', '0.200', '0.300', '0.400', '0.500', '0.600', '-'] in rows


def test_other_metrics_are_listed(capsys):
    print_metrics({'accuracy/top1': 71.9}, ['Accuracy'])
    assert '71.9' in capsys.readouterr().out


def test_missing_and_odd_metrics_do_not_stop_the_table(capsys):
    print_metrics({'coco/bbox_mAP': 0.5, 'coco/bbox_AR@100': 0.25, 'confusion': [[1, 2]],
                   'coco/[/a]_precision': 0.75}, ['CocoMetric'])
    out = capsys.readouterr().out
    assert ['box', '0.500', '-', '-', '-', '-', '-'] in [r.replace('│', ' ').split() for r in out.splitlines()]
    assert all(part in out for part in ('0.25', '[[1, 2]]', 'coco/[/a]_precision', '0.75'))


def test_no_metrics_are_not_passed_over(capsys):
    print_metrics({}, ['CocoMetric'])
    assert capsys.readouterr().out == ("no metrics: the config's test_evaluator (CocoMetric) gave none. CocoMetric "
                                       'gives none if nothing was detected on any image\n')
    print_metrics({}, ['DumpDetResults', 'Mine'])
    assert capsys.readouterr().out == "no metrics: the config's test_evaluator (DumpDetResults, Mine) gave none\n"


@pytest.mark.parametrize('metrics, what', [({}, 'nothing'), ({'accuracy/top1': 71.9}, 'not everything')])
def test_files_of_results_are_listed(capsys, metrics, what):
    print_metrics(metrics, ['CocoMetric'], {'a [b].bbox.json': 300, 'a [b].zip': None, f'a{os.sep}': 2})
    out = capsys.readouterr().out
    assert out.startswith(f'{what} was evaluated, because of format_only=True. Results are in:\n'
                          f'a [b].bbox.json (300 results)\na [b].zip\na{os.sep} (2 files)\n')
    assert 'no metrics' not in out and ('71.9' in out) is bool(metrics)


def test_no_files_of_results_are_said_to_be_none(capsys):
    print_metrics({}, ['CocoMetric'], {})
    assert capsys.readouterr().out == ('nothing was evaluated, because of format_only=True. No files that begin with '
                                       'outfile_prefix were written\n')
