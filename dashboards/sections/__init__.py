"""One file per section of the report, found by its name; a section knows nothing of the others.

A section defines `ORDER` (its place on the page), `TITLE`, and `html(source)`: its body as safe HTML, or ""
where the study has nothing for it.
"""
