"""Reads YAML 1.2 into a tree, refusing what a closed document must not have.

The tree is built from ruamel.yaml's events: aliases, tags, duplicate keys and second documents are refused while
the events arrive, so nothing is expanded first. Directives are refused before the parser sees them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from policies.characters import foreign_directive, foreign_space, hidden_character, hidden_place, place
from policies.errors import DocumentError, Problem
from policies.limits import LIMITS, Limits
from policies.tree import Node, Position, core_scalar
from policies.wording import shown

_Tagged = ScalarEvent | MappingStartEvent | SequenceStartEvent


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    node: Node
    key: str | None = None
    key_position: Position = (1, 1)
    expects_value: bool = False

    @property
    def expects_key(self) -> bool:
        """Whether the next node is a key of a mapping."""
        return self.node.entries is not None and not self.expects_value


class _Builder:
    """Turns events into nodes, collecting what can be collected and stopping at what cannot."""

    def __init__(self, text: str, source: str, limits: Limits) -> None:
        self.text = text
        self.source = source
        self.limits = limits
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self.read = 0
        """The offset at which the newest event begins."""
        self._open: list[_Open] = []
        self._nodes = 0
        self._documents = 0

    def report(self, position: Position, message: str) -> None:
        """Add a problem and go on."""
        self.problems.append(Problem(*position, message, self.source))

    def fail(self, position: Position, message: str) -> DocumentError:
        """Add a problem after which the rest of the text cannot be read."""
        self.report(position, message)
        return DocumentError(self.problems)

    def take(self, event: Event) -> None:
        """Handle one event."""
        position = (event.start_mark.line + 1, event.start_mark.column + 1)
        self.read = event.start_mark.index
        if isinstance(event, DocumentStartEvent):
            self._begin(position)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._open.pop()
        elif isinstance(event, AliasEvent):
            if self._open and self._open[-1].expects_key:
                raise self.fail(position, "got an alias as a key, expected text")
            self.report(position, f"got the alias *{shown(event.anchor)}, expected the value written out")
            self._add(Node(position, faulty=True))
        elif isinstance(event, ScalarEvent):
            self._scalar(event, position)
        elif isinstance(event, MappingStartEvent):
            self._collection(event, Node(position, entries={}))
        elif isinstance(event, SequenceStartEvent):
            self._collection(event, Node(position, items=[]))

    def _begin(self, position: Position) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self.fail(position, "got a second document, expected one: split the file at ---")

    def _scalar(self, event: ScalarEvent, position: Position) -> None:
        owner = self._open[-1] if self._open else None
        if owner and owner.expects_key:
            self._key(owner, event, position)
            return
        node = Node(position)
        if self._tagged(event, position):
            node.faulty = True
        else:
            self._set_value(node, event)
        self._add(node)

    def _key(self, owner: _Open, event: ScalarEvent, position: Position) -> None:
        entries = owner.node.entries or {}
        owner.expects_value, owner.key, owner.key_position = True, event.value, position
        if self._tagged(event, position):
            owner.key = None
        elif event.value in entries:
            first = owner.node.keys[event.value][0]
            key = shown(event.value)
            self.report(position, f'got "{key}" a second time (first at line {first}), expected each key once')
            owner.key = None
        elif event.style is None and not isinstance(core_scalar(event.value), str):
            key = shown(event.value)
            self.report(position, f'got {key} as a key, expected text: write "{key}"')
            owner.key = None
        elif self._unfit(event.value, position):
            owner.key = None

    def _set_value(self, node: Node, event: ScalarEvent) -> None:
        if self._unfit(event.value, node.position):
            node.faulty = True
            return
        node.value = core_scalar(event.value) if event.style is None else event.value
        if isinstance(node.value, int) and abs(node.value) >= 10**self.limits.integer_digits:
            self.report(
                node.position,
                f"got a number of {len(event.value)} digits, expected at most {self.limits.integer_digits}",
            )
            node.faulty, node.value = True, None

    def _unfit(self, text: str, position: Position) -> bool:
        if len(text) > self.limits.scalar_characters:
            self.report(
                position,
                f"got a text of {len(text)} characters, expected at most {self.limits.scalar_characters}",
            )
            return True
        hidden = hidden_character(text)
        if hidden is not None:
            self.report(position, _invisible(hidden))
        return hidden is not None

    def _tagged(self, event: _Tagged, position: Position) -> bool:
        if event.tag is None:
            return False
        self.report(position, f"got the tag {shown(event.tag)}, expected a value without a tag: remove it")
        return True

    def _collection(self, event: _Tagged, node: Node) -> None:
        if self._open and self._open[-1].expects_key:
            raise self.fail(node.position, "got a list or a mapping as a key, expected text")
        if len(self._open) >= self.limits.depth:
            raise self.fail(node.position, f"got more than {self.limits.depth} levels, expected fewer")
        node.faulty = self._tagged(event, node.position)
        self._add(node)
        self._open.append(_Open(node))

    def _add(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > self.limits.nodes:
            raise self.fail(node.position, f"got more than {self.limits.nodes} values, expected fewer")
        if not self._open:
            self.root = node
            return
        owner = self._open[-1]
        if owner.node.items is not None:
            owner.node.items.append(node)
        elif owner.node.entries is not None:
            if owner.key is not None:
                owner.node.entries[owner.key] = node
                owner.node.keys[owner.key] = owner.key_position
            owner.expects_value = False


def parse(text: str, source: str, limits: Limits = LIMITS) -> tuple[Node | None, list[Problem]]:
    """Read a text into its root node and the problems with it that did not stop the reading.

    The root is None when the text holds no document. Raises DocumentError when the text is not YAML or passes
    a limit.
    """
    builder = _Builder(text, source, limits)
    directive = foreign_directive(text)
    if directive is not None:
        position, line = directive
        raise builder.fail(position, f"got the directive {shown(line)}, expected 1.2: remove it")
    for event in _events(builder):
        builder.take(event)
    found = None if builder.problems else hidden_place(text)
    if found is not None:
        builder.report(found[0], _invisible(found[1]))
    return builder.root, builder.problems


def _events(builder: _Builder) -> Iterator[Event]:
    """The parser's events; whatever it raises is a problem with a place, and what `builder` raises is not its own."""
    text = builder.text
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = text.rfind("\n", 0, builder.read) + 1
        space = foreign_space(text[line : mark.index], place(text, line)) if mark else None
        if space is not None:
            raise builder.fail(space[0], f"got {space[1]}, expected a space") from None
        position = (mark.line + 1, mark.column + 1) if mark else place(text, builder.read)
        raise builder.fail(position, _syntax(error)) from None
    except ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(str(error.character)[0])
        message = f"got the character U+{code:04X}, expected printable text"
        raise builder.fail(place(text, error.position), message) from None
    except Exception as error:  # noqa: BLE001  on some texts the parser meets its own faults: assertions, overflows
        message = f"got text that the YAML parser cannot read ({shown(error)}), expected YAML 1.2"
        raise builder.fail(place(text, builder.read), message) from None


def _invisible(character: str) -> str:
    return f"got the invisible character U+{ord(character):04X}, expected visible text"


def _syntax(error: MarkedYAMLError) -> str:
    problem = str(error.problem or error.context or "syntax error")
    if "'\\t'" in problem:
        return "got a tab, expected spaces: YAML indents with spaces only"
    context = f" {error.context}" if error.problem and error.context else ""
    return f"got text that is not YAML ({shown(problem + context)}), expected YAML 1.2"
