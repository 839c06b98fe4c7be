"""How to repeat the study: commands, data, seeds, versions, and the whole frozen definition."""

from __future__ import annotations

from dashboards import markup, reproduction
from dashboards.drawing import escape
from dashboards.source import Source

ORDER = 1000
TITLE = "How to reproduce"


def html(source: Source) -> str:
    spec = source.spec
    command = reproduction.command(spec)
    if command is None:
        said = "No command line gives this definition from a study file of this release; it stands below."
        commands = []
    else:
        said = "The search is the same on any machine; scores agree as far as the device computes the same."
        commands = [command]
    commands += [f"python -m study report {spec.name}", f"python -m study extend {spec.name} --replicates N"]
    return "".join(
        [
            markup.paragraph(said),
            f'<pre class="commands">{escape(chr(10).join(commands))}</pre>',
            markup.grid(reproduction.facts(spec, source.trials), sortable=False),
            markup.details(
                "The frozen definition, spec.json", f'<pre class="spec">{escape(spec.to_json())}</pre>'
            ),
        ]
    )
