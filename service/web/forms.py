"""Images and their parameters, as forms or raw bodies bring them."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import aclosing
from email.errors import HeaderParseError
from email.header import decode_header
from tempfile import gettempdir
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, ImmutableMultiDict, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from index.names import UNREADABLE, shown
from index.space import no_space
from service.core.library import too_large
from service.web.asking import shared
from service.web.headers import route_path
from service.web.limits import BOUNDARY, BOUNDARY_TOO_LONG

MOST_FIELDS, LARGEST_FIELD = 200, 65_536  # of a form, beside its files; bytes
NO_SPACE_TO_READ = (
    "{} is full, where large images of a form lie while they are read; free space there, set TMPDIR to "
    "another folder, or send one image as the raw body"
)
# Parameters that may have several values at an address; elsewhere only `label` may.
SEVERAL = {"/images": {"label", "predicted"}, "/trash": {"id"}}
GIVEN_TWICE = "{} is given more than once, with different values; give one"
HOW_TO_SEND_MANY = "send the images as multipart fields 'image'"
HOW_TO_SEND = "send one image as the multipart field 'image' or as the raw request body"
ONE_IMAGE = {"type": "string", "format": "binary"}
MANY_IMAGES = {"type": "array", "items": ONE_IMAGE}
RAW_IMAGE = {
    "image/*": {"schema": {"type": "string", "format": "binary"}, "example": "(the bytes of cat.png)"}
}

# Of Content-Disposition; a header has at most 4 kB in a form.
PARAMETER = re.compile(rb';\s*([^=;\s]+)\s*=\s*("(?:[^"\\]|\\.)*"(?=\s*(?:;|$))|[^;]*)', re.DOTALL)
EXTENDED = re.compile(rb"([\w.+-]+)'[^']*'(.*)", re.DOTALL)
WORD = rb"=\?[\w.+-]+(?:\*[\w-]+)?\?[bBqQ]\?[!->@-~]*\?="
ENCODED = re.compile(rb"%b(?:\s+%b)*" % (WORD, WORD))
ESCAPED = re.compile(rb"%22|%0[ADad]")


def form_of(
    image: Mapping[str, Any], others: Mapping[str, Any], example: Mapping[str, Any]
) -> dict[str, Any]:
    """How OpenAPI describes a form with one image or many and other fields."""
    schema = {"type": "object", "required": ["image"], "properties": {"image": image, **others}}
    return {"multipart/form-data": {"schema": schema, "example": example}}


def is_form(request: Request) -> bool:
    """Whether the body is a form with files; else it is a file."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "multipart/form-data"


async def read_image(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The image's bytes, and the other form fields if it came in a form."""
    if not is_form(request):
        return checked(await request.body(), request), {}
    form = await read_form(request, max_files=1)
    try:
        image = checked(await _image_in(form), request)
        each_once(form)
        return image, {name: value for name, value in fields(form).items() if name != "image"}
    finally:
        await form.close()


async def read_form(request: Request, *, max_files: int) -> FormData:
    """The request's form, to be closed. Raises HTTPException for one that cannot be read."""
    _, parameters = parse_options_header(request.headers.get("content-type", ""))
    if len(parameters.get(b"boundary", b"")) > BOUNDARY:
        raise HTTPException(*BOUNDARY_TOO_LONG)
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):  # others are rare, some take time that grows with the square
        raise HTTPException(
            400, f"the form cannot be read (its charset is {charset[:40]!r}); send it in UTF-8"
        )
    try:
        form = await _form(request, max_files=max_files, max_fields=MOST_FIELDS, max_part_size=LARGEST_FIELD)
        return FormData(filled_in(form))
    except HTTPException as error:
        if error.status_code != 400:
            raise
        reason = error.detail.rstrip(".")
        raise HTTPException(400, f"the form cannot be read ({reason}); {HOW_TO_SEND}") from None
    except (UnicodeError, LookupError, ValueError) as error:  # a charset that does not exist, or does not fit
        raise HTTPException(400, f"the form cannot be read ({error}); {HOW_TO_SEND}") from None
    except OSError as error:  # large files of a form lie on the disk while they are read
        if not no_space(error):
            raise
        raise HTTPException(507, NO_SPACE_TO_READ.format(gettempdir())) from None


async def _form(request: Request, **limits: int) -> FormData:
    """As Starlette's `Request.form`, with the names of files as they are."""
    if not is_form(request):
        return await request.form(**limits)
    try:
        async with aclosing(request.stream()) as stream:
            return await _Form(request.headers, stream, **limits).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None


class _Form(MultiPartParser):
    def on_headers_finished(self) -> None:
        part = self._current_part
        name = file_name(part.content_disposition or b"")
        if name is not None:  # what has only a `filename*` is a file too
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()
        if part.file is not None:
            part.file.filename = name


def file_name(disposition: bytes) -> str | None:
    """The name of a file in a Content-Disposition header; None: it names none.

    Each byte that is no UTF-8 is a lone surrogate (PEP 383). A name may come as `filename*` (RFC 8187), in
    encoded words (RFC 2047), or as browsers send it: in plain bytes, with %22, %0A and %0D for what would
    break the line (WHATWG HTML, multipart form data).
    """
    given = {name.lower(): _unquoted(value) for name, value in PARAMETER.findall(disposition)}
    if extended := EXTENDED.fullmatch(given.get(b"filename*", b"")):
        name = _decoded(unquote_to_bytes(extended[2]), extended[1].decode())
    elif (plain := given.get(b"filename")) is None:
        return None
    elif ENCODED.fullmatch(plain):
        name = _of_words(plain)
    else:
        name = _decoded(ESCAPED.sub(lambda escape: unquote_to_bytes(escape[0]), plain), "utf-8")
    return name.replace("\0", UNREADABLE)  # which is in no name, and not every database takes it


def _unquoted(value: bytes) -> bytes:
    value = value.strip()
    if len(value) < 2 or not value.startswith(b'"') or not value.endswith(b'"'):
        return value
    return value[1:-1].replace(b"\\\\", b"\\").replace(b'\\"', b'"')


def _of_words(words: bytes) -> str:
    try:
        parts = decode_header(words.decode())
    except HeaderParseError:  # no base64
        return words.decode()
    name = (part if isinstance(part, str) else _decoded(part, kind or "utf-8") for part, kind in parts)
    return "".join(name) or words.decode()


def _decoded(name: bytes, charset: str) -> str:
    try:
        return shown(name.decode(charset))
    except (LookupError, UnicodeError):
        return name.decode(errors="surrogateescape")


async def _image_in(form: FormData) -> bytes:
    images = form.getlist("image")
    if len(images) != 1:
        raise HTTPException(422, f"the form has {len(images) or 'no'} fields 'image'; {HOW_TO_SEND}")
    if not isinstance(images[0], UploadFile):
        raise HTTPException(422, f"the form field 'image' is text, not a file; {HOW_TO_SEND}")
    return await images[0].read()


async def read_images(request: Request) -> tuple[list[bytes], dict[str, Any]]:
    """The images, and the other fields of their form."""
    form = await read_form(request, max_files=shared(request).settings.max_batch)
    try:
        files = form.getlist("image")
        images = [await file.read() for file in files if isinstance(file, UploadFile)]
        if not images or len(images) < len(files):
            raise HTTPException(422, f"each form field 'image' must be a file; {HOW_TO_SEND_MANY}")
        each_once(form)
        return images, {name: value for name, value in fields(form).items() if name != "image"}
    finally:
        await form.close()


def checked(image: bytes, request: Request) -> bytes:
    limit = shared(request).settings.max_image_bytes
    if not image:
        raise HTTPException(422, f"there is no image, or an empty one; {HOW_TO_SEND}")
    if len(image) > limit:
        raise HTTPException(413, too_large(limit))
    return image


def filled_in(given: ImmutableMultiDict[str, Any]) -> list[tuple[str, Any]]:
    """Without what is empty: who leaves a field of a form empty gives nothing, and yet it is sent."""
    return [(name, value) for name, value in given.multi_items() if value != ""]


async def parameters_once(request: Request) -> None:
    """Refuse an address with two values of one parameter: of all routes, or one of the values were lost."""
    each_once(request.query_params, several=SEVERAL.get(route_path(request.scope), {"label"}))


def each_once(given: ImmutableMultiDict[str, Any], several: Collection[str] = ("label", "image")) -> None:
    """Raise HTTPException for a parameter with two values that is none of `several`."""
    values = defaultdict[str, set[Any]](set)  # in one pass: an address may have thousands
    for name, value in given.multi_items():
        values[name].add(value)
    for name, different in values.items():
        if name not in several and len(different) > 1:
            raise HTTPException(422, GIVEN_TWICE.format(name[:80]))


def fields(given: ImmutableMultiDict[str, Any]) -> dict[str, Any]:
    found = ImmutableMultiDict(filled_in(given))
    return {name: found.getlist(name) if name == "label" else found.get(name) for name in found}
