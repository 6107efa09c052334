"""`imgalign info`: what a parameter file says, in words."""

from collections.abc import Sequence
from pathlib import Path

import click

from imgalign.cli import ERROR, OK, UNTRUSTED, options
from imgalign.cli.talk import Talk
from imgalign.errors import ImgalignError
from imgalign.files.paths import shown


@click.command(cls=options.SectionedCommand)
@click.argument("params", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PARAMS...")
@options.option("Output", "--json", "as_json", is_flag=True, help="Print one JSON line a file instead of words.")
@click.pass_context
def info(ctx: click.Context, /, params: Sequence[Path], as_json: bool) -> None:
    """Say in plain words what parameter files hold.

    The exit status is that of the alignment: 3 where a result is not to be trusted, 1 where a file is no parameter
    file. So `imgalign info FILE` can stand behind an `if`.

    \b
    Examples:
      imgalign info moving.params.json
      imgalign info --json *.params.json | jq -r 'select(.trusted) | .params'
    """
    from imgalign import load
    from imgalign.files import record

    talk = Talk()
    failed = doubted = False
    for path in params:
        try:
            alignment = load(path)
        except ImgalignError as error:
            failed = True
            talk.error(str(error))
            continue
        doubted |= not alignment.trusted
        if as_json:
            talk.answer({**record.to_dict(alignment), "params": str(path)})
        else:
            talk.put("\n".join([shown(path), *(f"  {line}" for line in alignment.describe().splitlines())]))
    ctx.exit(ERROR if failed or talk.lost else UNTRUSTED if doubted else OK)
