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
export const connect: Connector = (url, listener) => {
  if (url.startsWith("tcp:")) return connectTcp(url, listener);
  return connectWebSocket(url, listener);
};

function connectWebSocket(url: string, listener: Listener): Connection {
  if (typeof WebSocket === "undefined") {
    throw new TypeError("this runtime has no WebSocket: use a tcp:// address, or Node 22 and later");
  }
  const socket = new WebSocket(url, "mainstay.1");
  socket.binaryType = "arraybuffer";
  let heard = true;
  socket.onopen = () => heard && listener.opened("websocket");
  socket.onmessage = (event) => heard && listener.received(new Uint8Array(event.data as ArrayBuffer));
  socket.onclose = () => heard && listener.closed();
  return {
    send: (bytes) => socket.readyState === WebSocket.OPEN && socket.send(bytes as Uint8Array<ArrayBuffer>),
    close: () => {
      heard = false;
      socket.close();
    },
    buffered: () => socket.bufferedAmount,
  };
}

function connectTcp(url: string, listener: Listener): Connection {
  const { hostname, port } = new URL(url.replace(/^tcp:/, "http:"));
  let heard = true;
  let socket: import("node:net").Socket | undefined;
  import("node:net").then(
    (net) => {
      if (!heard) return;
      socket = net.connect({ host: hostname.replace(/^\[|\]$/g, ""), port: Number(port), noDelay: true });
      socket.on("connect", () => heard && listener.opened("tcp"));
      socket.on("data", ({ buffer, byteOffset, length }) => {
        if (heard) listener.received(new Uint8Array(buffer, byteOffset, length));
      });
      socket.on("error", () => {});
      socket.on("close", () => heard && listener.closed());
    },
    () => heard && listener.closed(),
  );
  return {
    send: (bytes) => socket?.write(bytes),
    close: () => {
      heard = false;
      socket?.end();
      socket?.setTimeout(1_000, () => socket?.destroy());
      socket?.unref();
    },
    buffered: () => socket?.writableLength ?? 0,
  };
}
