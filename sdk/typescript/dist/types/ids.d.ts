/** Ids that are hashes of names; the same functions as in the server. */
/** FNV-1a over the UTF-8 bytes of `name`, then a finaliser. */
export declare function nameHash(name: string): number;
/** The id of the kind called `name`. */
export declare function kindId(name: string): number;
/** The id of the method with `path`: `name`, or `component.name`. */
export declare function methodId(path: string): number;
