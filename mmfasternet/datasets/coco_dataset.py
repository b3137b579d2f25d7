"""MMDetection's dataset in COCO format, for imperfect annotation files."""

from typing import Any, Dict, List, Optional

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmfasternet.datasets.coco_file import read_coco_file
from mmfasternet.datasets.coco_masks import usable_polygons
from mmfasternet.registry import DATASETS


class TolerantCOCO(COCO):
    """MMDetection's index of a COCO file, tolerant of deviations that are unambiguous.

    It accepts a byte order mark, a missing ``iscrowd`` (read as 0), and
    annotation ids that are strings or 0. Such annotations are renumbered from
    1: pycocotools treats the id 0 as no match.

    Args:
        annotation_file: The file. Defaults to None: an empty index.

    Raises:
        DataError: If it can't be read.
    """

    def __init__(self, annotation_file: Optional[str] = None) -> None:
        super().__init__()
        if annotation_file is not None:
            self.index(read_coco_file(str(annotation_file)))

    def index(self, content: Dict[str, Any]) -> None:
        """Use a file's content, which is changed in place."""
        for number, row in enumerate(content.get('annotations') or [], start=1):
            row['id'], row['iscrowd'] = number, int(row.get('iscrowd') or 0)
        content.setdefault('info', {})  # some releases of pycocotools need it in loadRes()
        self.dataset = content
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def annToRLE(self, ann: Dict[str, Any]) -> Any:
        """The mask of an object; one without a mask gets its box, and is marked as a crowd, which is ignored."""
        segmentation = ann.get('segmentation') or []
        if isinstance(segmentation, list):
            polygons = usable_polygons(segmentation, pairs=False)
            if not polygons:
                x, y, width, height = ann['bbox']
                ann['iscrowd'] = 1
                polygons = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            ann = dict(ann, segmentation=polygons)
        return super().annToRLE(ann)

    def loadAnns(self, ids: Any = ()) -> List[Dict[str, Any]]:
        """Copies, because the evaluation of masks modifies them and others follow."""
        return [dict(row) for row in super().loadAnns(_listed(ids))]

    # pycocotools reads a string as a list of ids.

    def getAnnIds(self, imgIds: Any = (), catIds: Any = (), areaRng: Any = (), iscrowd: Any = None) -> List[int]:
        return super().getAnnIds(_listed(imgIds), _listed(catIds), areaRng, iscrowd)

    def loadCats(self, ids: Any = ()) -> List[Dict[str, Any]]:
        return super().loadCats(_listed(ids))

    def loadImgs(self, ids: Any = ()) -> List[Dict[str, Any]]:
        return super().loadImgs(_listed(ids))


def _listed(ids: Any) -> Any:
    return [ids] if isinstance(ids, str) else ids


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """MMDetection's ``CocoDataset``, read by :class:`TolerantCOCO`.

    Args:
        See :class:`mmdet.datasets.CocoDataset`.
    """
    COCOAPI: Any = TolerantCOCO
