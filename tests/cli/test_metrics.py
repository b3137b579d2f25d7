from mmfasternet.cli.metrics import print_metrics


def test_coco_metrics_are_a_table(capsys):
    names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
    metrics = {f'coco/bbox_{name}': (i + 1) / 10 for i, name in enumerate(names)}
    metrics |= {f'coco/segm_{name}': (i + 2) / 10 for i, name in enumerate(names)}
    metrics['coco/segm_mAP_l'] = -1.
    print_metrics(metrics)
    rows = [line.replace('│', ' ').split() for line in capsys.readouterr().out.splitlines()]
    assert ['box', '0.100', '0.200', '0.300', '0.400', '0.500', '0.600'] in rows
    assert ['mask', '0.200', '0.300', '0.400', '0.500', '0.600', '-'] in rows


def test_other_metrics_are_listed(capsys):
    print_metrics({'accuracy/top1': 71.9})
    assert '71.9' in capsys.readouterr().out


def test_missing_and_odd_metrics_do_not_stop_the_table(capsys):
    print_metrics({'coco/bbox_mAP': 0.5, 'coco/bbox_AR@100': 0.25, 'confusion': [[1, 2]]})
    out = capsys.readouterr().out
    assert ['box', '0.500', '-', '-', '-', '-', '-'] in [r.replace('│', ' ').split() for r in out.splitlines()]
    assert '0.25' in out and '[[1, 2]]' in out


def test_no_metrics_are_not_passed_over(capsys):
    print_metrics({})
    assert 'nothing was detected' in capsys.readouterr().out
