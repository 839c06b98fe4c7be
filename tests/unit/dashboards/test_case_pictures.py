"""The strip of a case: every panel there, the right colours, clicks and misses visible, valid and small."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dashboards.case_pictures import strip, thumbnail
from trainables.gallery import Picture
from trainables.legend import ERROR_COLOURS, class_colour


def a_picture(truth, prediction, labels=None, image=None):
    image = np.full((32, 48), 90, np.uint8) if image is None else image
    return Picture(
        role="worst", case_id="c", image_id="c/1", slice_index=1, slices=3, judged=truth.shape,
        image_HW=image, truth_HW=truth, prediction_HW=prediction, labels_HW=labels,
    )  # fmt: skip


def square(k=1, shape=(64, 96)):
    mask = np.zeros(shape, np.uint8)
    mask[16:48, 24:72] = k
    return mask


def panels(svg):
    """(name, its overlay as RGBA or None) of each panel."""
    root = ElementTree.fromstring(svg)
    found = []
    for group in root.findall("g"):
        image = group.find("image")
        pixels = None
        if image is not None:
            content = base64.b64decode(image.attrib["href"].partition("base64,")[2])
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
        found.append((group.findtext("text"), pixels))
    return found


def has(pixels, colour):
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool(((pixels[..., :3] == wanted).all(-1) & (pixels[..., 3] > 0)).any())


def test_four_panels_share_one_image():
    svg = strip(a_picture(square(), square()), "worst <case>", side=96)
    found = panels(svg)
    assert [name for name, _ in found] == ["image", "truth", "prediction", "errors"]
    assert svg.count("data:image/webp") == 1
    assert svg.count("<use ") == 4
    assert 'aria-label="worst &lt;case&gt;"' in svg
    assert found[0][1] is None
    assert has(found[1][1], class_colour(1))
    assert found[3][1] is None  # nothing is wrong


def test_a_missed_structure_is_all_false_negative():
    truth = square()
    _, truth_panel, prediction, errors = (
        pixels for _, pixels in panels(strip(a_picture(truth, truth * 0), "x", side=96))
    )
    assert prediction is None
    assert has(errors, ERROR_COLOURS["false negative"])
    assert not has(errors, ERROR_COLOURS["false positive"])
    np.testing.assert_array_equal(errors[..., 3] > 0, truth > 0)
    np.testing.assert_array_equal(truth_panel[..., 3] > 0, truth > 0)


def test_every_kind_of_error_and_class_has_its_colour():
    truth, prediction = square(), square()
    truth[16:20], prediction[40:48] = 0, 2
    prediction[20:24] = 0
    errors = panels(strip(a_picture(truth, prediction), "x", side=96))[3][1]
    assert all(has(errors, colour) for colour in ERROR_COLOURS.values())
    for k in (1, 7, 8, 125):
        shown = panels(strip(a_picture(square(k), square(k)), "x", side=96))[1][1]
        assert has(shown, class_colour(k))
        assert set(np.unique(shown[..., 3])) == {0, 95, 255}  # the edge is solid, the inside shows the image


def test_clicks_are_circles_in_their_place():
    labels = np.full((32, 48), 255, np.uint8)
    labels[8, 12], labels[31, 47] = 1, 0
    svg = strip(a_picture(square(), square(), labels), "x", side=96)
    assert panels(svg)[0][0] == "annotation"
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+" fill="(#\w+)"', svg)
    assert [(float(x), float(y)) for x, y, _ in circles] == [(41.7, 28.4), (158.3, 105.3)]
    assert [colour for *_, colour in circles] == [class_colour(1), class_colour(0)]


def test_no_click_is_said_to_be_none():
    assert "no pixel labelled" in strip(
        a_picture(square(), square(), np.full((8, 8), 255, np.uint8)), "x", side=96
    )


def test_a_scribble_stays_visible_and_a_mask_is_an_area():
    labels = np.full((300, 450), 255, np.uint8)
    labels[150, 50:400] = 2
    scribble = panels(strip(a_picture(square(), square(), labels), "x", side=96))[0][1]
    assert has(scribble, class_colour(2))
    assert 60 < np.count_nonzero(scribble[..., 3]) < 96 * 4
    dense = panels(strip(a_picture(square(), square(), square(2)), "x", side=96))[0][1]
    np.testing.assert_array_equal(dense[..., 3] > 0, square() > 0)


@pytest.mark.parametrize("shape", [(1, 1), (5, 500), (512, 3)])
def test_any_shape_is_drawn_and_the_same_each_time(shape):
    truth = np.ones(shape, np.uint8)
    picture = a_picture(truth, truth * 0, image=np.zeros((2, 2), np.uint8))
    assert strip(picture, "x", side=64) == strip(picture, "x", side=64)
    assert len(panels(strip(picture, "x", side=64))) == 4


def test_noise_takes_few_bytes():
    noise = np.random.default_rng(0).integers(0, 255, (256, 256)).astype(np.uint8)
    assert len(strip(a_picture(square(), square(), image=noise), "x", side=224)) < 45_000


def test_a_thumbnail_is_small_and_no_picture_is_an_error():
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 600), "red").save(buffer, "png")
    content = base64.b64decode(thumbnail(buffer.getvalue(), 300).partition("base64,")[2])
    assert Image.open(io.BytesIO(content)).size == (300, 60)
    for broken in (b"", b"\x89PNG\r\n\x1a\n", buffer.getvalue()[:200]):
        with pytest.raises(ValueError, match="no picture"):
            thumbnail(broken, 300)
