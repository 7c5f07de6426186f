/** Byte pipes to a gate: WebSocket in browsers, plain TCP in Node. */
/** What a connection reports. After `close` of the connection nothing more is reported. */
export interface Listener {
    opened(transport: "tcp" | "websocket"): void;
    received(bytes: Uint8Array): void;
    closed(): void;
}
/** One connection, or the attempt to make one. */
export interface Connection {
    send(bytes: Uint8Array): void;
    /** Sends what was given to `send`, then closes. Nothing is reported any more. */
    close(): void;
    /** Bytes given to `send` that have not left yet. */
    buffered(): number;
}
/** Begins to connect. */
export type Connector = (url: string, listener: Listener) => Connection;
/** Connects by the scheme of the URL: `ws:`, `wss:`, or `tcp:` (Node only). */
export declare const connect: Connector;
