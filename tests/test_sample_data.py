import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "sample_data"
TRUTHS = sorted(FOLDER.glob("*.truth.json"))

sys.path.insert(0, str(ROOT))
pytest.importorskip("scipy")
render = pytest.importorskip("sample_data.render")


def pixels(name):
    with Image.open(FOLDER / name) as file:
        return np.asarray(file).astype(int)


def test_every_recipe_has_its_pair_and_truth():
    assert {p.name.split(".")[0] for p in TRUTHS} == set(render.recipes())
    assert {json.loads(p.read_text("utf-8"))["model"] for p in TRUTHS} == {
        "translate",
        "rigid",
        "similarity",
        "affine",
        "homography",
    }


def test_samples_stay_under_three_megabytes():
    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) < 3_000_000


@pytest.mark.parametrize("path", TRUTHS, ids=lambda p: p.name.split(".")[0])
def test_truth_file_says_what_the_recipe_does(path):
    truth = json.loads(path.read_text("utf-8"))
    recipe = render.recipes()[path.name.split(".")[0]]
    assert np.allclose(truth["moving_from_fixed"], recipe.moving_from_fixed, atol=1e-12)
    assert pixels(truth["fixed"]).shape[:2] == recipe.fixed_hw
    assert pixels(truth["moving"]).shape[:2] == recipe.moving_hw


@pytest.mark.parametrize("path", TRUTHS, ids=lambda p: p.name.split(".")[0])
def test_noise_bound_lies_well_under_what_is_asked(path):
    assert 0 < json.loads(path.read_text("utf-8"))["cramer_rao_corner_px"] < 0.01


def test_rendering_again_gives_the_stored_pictures():
    recipe = render.recipes()["stars"]
    for which, (side, clean) in enumerate(zip(("fixed", "moving"), render.clean_pair(recipe), strict=True)):
        again = render.expose(recipe, which, clean, "stars").astype(int)
        stored = pixels(f"stars_{side}.png")
        # another processor may round a sine the other way: one level, in few pixels
        assert np.abs(again - stored).max() <= 1
        assert (again != stored).mean() < 1e-3


@pytest.mark.parametrize("name", ["cells", "terrain", "page"])
def test_stored_pictures_show_the_scene_where_the_truth_says(name):
    recipe = render.recipes()[name]
    y, x = np.mgrid[40:220:9, 40:220:9]
    looks = {"fixed": render.SCENE_FROM_FIXED}
    looks["moving"] = render.SCENE_FROM_FIXED @ np.linalg.inv(recipe.moving_from_fixed)
    for side, matrix in looks.items():
        scene = recipe.scene(*render.project(matrix, np.c_[x.ravel(), y.ravel()]).T)  # a point, not a pixel's mean
        assert np.corrcoef(scene.ravel(), pixels(f"{name}_{side}.png")[y, x].ravel())[0, 1] > 0.85
