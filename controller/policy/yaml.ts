import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, Parser } from 'yaml';
import type { CST, ErrorCode, Node } from 'yaml';
import { printable, quote } from './words.js';

/** A place in a text, both counted from 1. */
export interface Position {
  line: number;
  column: number;
}

/** Something wrong at a place in a text. */
export interface Finding extends Position {
  message: string;
}

/** A YAML document as plain values. Mappings have no prototype; a value behind an alias is shared, not copied. */
export interface YamlText {
  /** Null when anything was found. */
  value: unknown;
  findings: Finding[];
  /** Where the value at a path stands; of a missing value, its parent. */
  locate: (path: readonly PropertyKey[]) => Position;
  /** Where a key of the mapping at a path stands. */
  locateKey: (path: readonly PropertyKey[], key: string) => Position;
}

/** Most values that the aliases of a document may stand for, all together. */
const maxAliasedValues = 10_000;

/** Deepest nesting that is read. */
const maxDepth = 64;

/** The remedies for the parser's own errors, whose sentences say only what is wrong. */
const remedies: Partial<Record<ErrorCode, string>> = {
  BAD_DQ_ESCAPE: 'use single quotes, or double the backslash',
  BAD_INDENT: 'line it up with spaces, or close the bracket',
  BAD_SCALAR_START: 'put the text in quotes',
  BLOCK_AS_IMPLICIT_KEY: 'start a new line, or put a text with a colon in quotes',
  KEY_OVER_1024_CHARS: 'shorten the key',
  MISSING_CHAR: 'add what is missing',
  MULTILINE_IMPLICIT_KEY: 'write the key on one line',
  TAB_AS_INDENT: 'use spaces',
  UNEXPECTED_TOKEN: 'remove it, or put it in quotes if it is text',
};

/** Reads one YAML document and remembers where everything in it stands. Never throws. */
export function readYaml(text: string): YamlText {
  const lines = new LineCounter();
  const findings: Finding[] = [];
  /** For each mapping and list, the offsets of its entries. */
  const places = new Map<unknown, Map<PropertyKey, { key: number; value: number }>>();
  const anchors = new Map<string, { value: unknown; size: number }>();
  let size = 0;
  let aliased = 0;

  const position = (offset: number): Position => {
    const { line, col } = lines.linePos(offset);
    return line === 0 ? { line: 1, column: 1 } : { line, column: col };
  };
  const report = (offset: number, message: string): null => {
    findings.push({ ...position(offset), message: printable(message) });
    return null;
  };

  const convert = (node: Node | null): unknown => {
    if (isAlias(node)) {
      const anchor = anchors.get(node.source);
      if (!anchor)
        return report(
          start(node),
          `alias ${quote(`*${node.source}`)} has no anchor before it: put it in quotes if it is text`,
        );
      size += anchor.size;
      const full = aliased > maxAliasedValues;
      aliased += anchor.size;
      if (aliased <= maxAliasedValues) return anchor.value;
      return full ? null : report(start(node), `aliases stand for more than ${maxAliasedValues} values: use fewer`);
    }
    const before = size++;
    if (node?.tag !== undefined)
      report(
        start(node),
        `the tag ${quote(node.tag.replace('tag:yaml.org,2002:', '!!'))} has no meaning here: remove it`,
      );
    const value = isMap<Node, Node | null>(node)
      ? convertMap(node.items)
      : isSeq<Node>(node)
        ? convertList(node.items)
        : isScalar(node)
          ? node.value
          : null;
    if ((isScalar(node) || isMap(node) || isSeq(node)) && node.anchor !== undefined)
      anchors.set(node.anchor, { value, size: size - before });
    return value;
  };

  const convertList = (items: readonly Node[]): unknown[] => {
    const list = items.map(convert);
    places.set(list, new Map(items.map((item, index) => [index, { key: start(item), value: start(item) }])));
    return list;
  };

  const convertMap = (pairs: readonly { key: Node; value: Node | null }[]): object => {
    const map = Object.create(null) as Record<string, unknown>;
    const entries = new Map<PropertyKey, { key: number; value: number }>();
    const merged: unknown[][] = [];
    for (const pair of pairs) {
      const key = convert(pair.key);
      const value = convert(pair.value);
      const at = start(pair.key);
      if (typeof key !== 'string') report(at, 'a key must be a text: put it in quotes');
      else if (key === '<<') {
        const sources = [value].flat();
        if (sources.some((source) => !places.has(source) || Array.isArray(source)))
          report(at, 'only mappings can be merged: write <<: *anchor of a mapping');
        merged.push(sources);
      } else if (entries.has(key)) report(at, `the key ${quote(key)} is here twice: remove one of them`);
      else {
        map[key] = value;
        entries.set(key, { key: at, value: value === null ? at : start(pair.value) });
      }
    }
    for (const source of merged.flat())
      for (const [key, place] of places.get(source) ?? [])
        if (!entries.has(key)) {
          map[key as string] = (source as Record<PropertyKey, unknown>)[key];
          entries.set(key, place);
        }
    places.set(map, entries);
    return map;
  };

  const { tokens, tooDeepAt } = tokenize(text, lines);
  const [document, second] = new Composer({ uniqueKeys: false }).compose(tokens, true, text.length);
  const contents: Node | null = document?.contents ?? null;
  // Other syntax errors are mostly consequences of the first.
  const [error] = document?.errors ?? [];
  if (tooDeepAt !== undefined)
    report(tooDeepAt, 'the YAML is nested too deeply: a policy needs no more than four levels');
  else if (error) {
    const sentence = `${error.message.charAt(0).toLowerCase()}${error.message.slice(1)}`;
    report(error.pos[0], `${sentence}: ${remedies[error.code] ?? 'correct the YAML'}`);
  } else if (second)
    report(second.range[0], 'the file holds more than one YAML document: keep one and remove the --- between them');
  const value = findings.length > 0 ? null : convert(contents);

  /** The value at a path and the place of its last known part. */
  const walk = (path: readonly PropertyKey[]): { at: unknown; offset: number } => {
    let at = value;
    let offset = start(contents);
    for (const key of path) {
      offset = places.get(at)?.get(key)?.value ?? offset;
      at = places.has(at) ? (at as Record<PropertyKey, unknown>)[key] : undefined;
    }
    return { at, offset };
  };
  return {
    value: findings.length > 0 ? null : value,
    findings,
    locate: (path) => position(walk(path).offset),
    locateKey: (path, key) => {
      const { at, offset } = walk(path);
      return position(places.get(at)?.get(key)?.key ?? offset);
    },
  };
}

/** Splits a text for the composer, which is recursive and so must not see deep nesting. */
function tokenize(text: string, lines: LineCounter): { tokens: CST.Token[]; tooDeepAt?: number } {
  const parser = new Parser(lines.addNewLine);
  const tokens: CST.Token[] = [];
  lines.addNewLine(0);
  for (const lexeme of new Lexer().lex(text)) {
    tokens.push(...parser.next(lexeme));
    if (parser.stack.length > maxDepth) return { tokens: [], tooDeepAt: parser.offset };
  }
  tokens.push(...parser.end());
  return { tokens };
}

const start = (node: Node | null): number => node?.range?.[0] ?? 0;
