"""A page that shows what was imported: shares, a contact sheet per split, what was left out."""

import base64
import io
from html import escape

from PIL import Image

from ktda_lab.importing.plan import Plan

SHOWN = 8  # tiles of a split
SIDE = 160  # of a picture, px
STYLE = "body{font:16px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}figure{display:inline-block}"


def page(plan: Plan, title: str, spec: str, shown: dict[str, list[tuple[str, Image.Image, Image.Image]]]) -> str:
    """HTML that loads nothing.

    Args:
        plan: what was done.
        title: name of the set.
        spec: its ``dataset.yaml``.
        shown: per split some tiles: name, image, painted mask.
    """
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>']
    parts += [f"<style>{STYLE}</style><h1>{escape(title)}</h1><table>"]
    for row in plan.shares():
        parts.append(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}")
    parts.append("</table><p>")
    for name, colour in zip(plan.labels.classes, plan.labels.palette, strict=True):
        parts.append(f'<span style="border-left:1em solid rgb{colour};padding:0 .5em">{escape(name)}</span>')
    parts += ["<ul>", *(f"<li>{escape(note)}" for note in plan.notes), "</ul>"]
    for split, tiles in shown.items():
        parts.append(f"<h2>{escape(split)}</h2>")
        for name, *pictures in tiles:
            images = "".join(f'<img alt="" src="data:image/png;base64,{_small(picture)}">' for picture in pictures)
            parts.append(f"<figure>{images}<figcaption>{escape(name)}</figcaption></figure>")
    parts.append(f"<h2>dataset.yaml</h2><pre>{escape(spec)}</pre></html>\n")
    return "\n".join(parts)


def _small(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    small.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()
