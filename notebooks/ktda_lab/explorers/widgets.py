"""The explorers as widgets: controls above a picture that is drawn anew when one of them moves.

The output of such a cell is a widget and a picture at once. A front end with widgets (JupyterLab) shows the first;
everything else (a page, a headless copy, a viewer without a kernel) shows the second, so no cell has to know where it
runs. Every control can be worked with the keyboard. Needs the extra ``notebooks``; nothing else imports this.
"""

import base64
import io
from collections.abc import Callable

import ipywidgets
import matplotlib as mpl
from matplotlib.figure import Figure

from ktda_lab.drawing import STYLE
from ktda_lab.explorers.predictions import PredictionExplorer
from ktda_lab.features.explorer import FeatureExplorer

DPI = 100
LABEL = {"description_width": "7em"}


def png(figure: Figure) -> bytes:
    """A figure as PNG, fast: of its own size, lightly compressed."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE | {"savefig.bbox": None}):
        figure.savefig(buffer, dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


class Explorer(ipywidgets.VBox):
    """Controls above the picture that `draw` makes of their values.

    Args:
        css_class: of the whole.
        draw: called with the controls' values by name.
        controls: widgets with a ``value``.
    """

    def __init__(self, css_class: str, draw: Callable[..., Figure], **controls: ipywidgets.ValueWidget) -> None:
        self._draw, self.controls = draw, controls
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})
        bar = ipywidgets.GridBox(list(controls.values()), layout={"grid_template_columns": "repeat(2, max-content)"})
        super().__init__([bar, self.picture])
        self.add_class(css_class)
        for control in controls.values():
            control.observe(self._update, names="value")
        self._update()

    def _update(self, _: dict | None = None) -> None:
        self.picture.value = png(self._draw(**{name: control.value for name, control in self.controls.items()}))

    def _repr_mimebundle_(self, **options: object) -> dict:
        note = "An explorer: in JupyterLab it has controls, here it is the picture that they start with."
        still = base64.b64encode(self.picture.value).decode()
        return super()._repr_mimebundle_(**options) | {"text/plain": note, "image/png": still}


def feature_explorer(explorer: FeatureExplorer) -> Explorer:
    """Pick tile, block and pixel; the middle of the tile and the last block at first."""
    height, width = explorer.images.shape[-2:]
    return Explorer(
        "ktda-feature-explorer",
        lambda tile, block, row, column: explorer.figure(tile, [block], row, column),
        tile=_choice("tile", explorer.names),
        block=_choice("block", explorer.blocks, len(explorer.blocks) - 1),
        row=_slider("pixel row", height - 1, height // 2),
        column=_slider("pixel column", width - 1, width // 2),
    )


def prediction_explorer(explorer: PredictionExplorer) -> Explorer:
    """Pick a tile and slide the predictions over the image; half of it is covered at first."""
    return Explorer(
        "ktda-prediction-explorer",
        lambda tile, covered: explorer.figure(tile, covered / 100),
        tile=_choice("tile", explorer.names),
        covered=_slider("covered (%)", 100, 50),
    )


def _choice(name: str, options: list[str], start: int = 0) -> ipywidgets.Dropdown:
    pairs = [(option, i) for i, option in enumerate(options)]
    return ipywidgets.Dropdown(options=pairs, value=start, description=name, style=LABEL)


def _slider(name: str, top: int, start: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(start, 0, top, description=name, style=LABEL)
