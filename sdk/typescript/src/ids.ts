/** Ids that are hashes of names; the same functions as in the server. */

import { textBytes } from "./bytes.ts";

/** FNV-1a over the UTF-8 bytes of `name`, then a finaliser. */
export function nameHash(name: string): number {
  let hash = 0x811c9dc5;
  for (const byte of textBytes(name)) hash = Math.imul(hash ^ byte, 0x01000193);
  hash ^= hash >>> 16;
  hash = Math.imul(hash, 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** The id of the kind called `name`. */
export function kindId(name: string): number {
  return nameHash(name);
}

/** The id of the method with `path`: `name`, or `component.name`. */
export function methodId(path: string): number {
  const dot = path.indexOf(".");
  if (dot < 0) return nameHash(path);
  const field = nameHash(path.slice(0, dot));
  const method = methodId(path.slice(dot + 1));
  const turned = (field << 13) | (field >>> 19);
  const mixed = turned ^ Math.imul(method, 0x9e3779b1);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}
