// What the page knows of the arena, and how it is drawn. No network here.

export const STEP_MS = 50;
const UNITS = 8;
const SHOT_STEPS = 16;
// Layout of a replica: what, place, motion, health, born (samples/arena/src/rules.rs).
const SIZES = [1, 4, 3, 1, 2];
// Others are drawn this far in the past, so that two snapshots lie around the moment.
const DELAY_MS = 110;
const SPEED = 9;
const BODY = 14;

const COLOURS = ["#5ad1ff", "#ffd166", "#ef8cff", "#7dffb0", "#ff9f6b", "#9fa8ff", "#ff6b7d", "#d4f26a",
  "#6bffe4", "#ffb3d1", "#c3a6ff", "#8be28b", "#ffcf9f", "#7fb8ff", "#f5f58a", "#ff8fa3"];

/** Reads the packets of the server's viewer (crates/scene/src/viewer.rs). */
export class Mirror {
  step = 0;
  epoch = 0;
  replicas = new Map();

  apply(bytes, now) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    const varint = () => {
      let value = 0, scale = 1;
      for (;;) {
        const byte = bytes[at++];
        if (byte === undefined) throw new Error("packet ends inside a number");
        value += (byte & 0x7f) * scale;
        if (byte < 0x80) return value;
        scale *= 128;
      }
    };
    const epoch = varint(), step = varint();
    if (step <= this.step) return;
    if (epoch !== this.epoch) {
      this.replicas.clear();
      this.epoch = epoch;
    }
    let id = 0;
    for (let left = varint(); left > 0; left--) {
      id += varint();
      this.replicas.delete(id);
    }
    id = 0;
    while (at < bytes.length) {
      id += varint();
      const mask = bytes[at++];
      let replica = this.replicas.get(id);
      if (!replica) {
        replica = { id, kind: 0, colour: 0, x: 0, y: 0, vx: 0, vy: 0, angle: 0, health: 0, born: 0, path: [] };
        this.replicas.set(id, replica);
      }
      for (let part = 0; part < SIZES.length; part++) {
        if (!(mask & (1 << part))) continue;
        this.#part(replica, part, view, at);
        at += SIZES[part];
      }
      replica.path.push({ at: now, x: replica.x, y: replica.y, angle: replica.angle });
      if (replica.path.length > 12) replica.path.shift();
    }
    this.step = step;
    this.steppedAt = now;
  }

  #part(replica, part, view, at) {
    if (part === 0) {
      const what = view.getUint8(at);
      replica.kind = what & 3;
      replica.colour = what >> 4;
    } else if (part === 1) {
      replica.x = view.getUint16(at, true) / UNITS;
      replica.y = view.getUint16(at + 2, true) / UNITS;
    } else if (part === 2) {
      replica.vx = view.getInt8(at) / 4;
      replica.vy = view.getInt8(at + 1) / 4;
      replica.angle = view.getUint8(at + 2);
    } else if (part === 3) {
      replica.health = view.getUint8(at);
    } else {
      replica.born = view.getUint16(at, true);
    }
  }
}

/** Where a replica is drawn at `now`. */
function placeOf(replica, mirror, now) {
  if (replica.kind === 1) {
    const step = mirror.step + (now - mirror.steppedAt - DELAY_MS) / STEP_MS;
    const born = mirror.step - ((mirror.step - replica.born) & 0xffff);
    const age = Math.max(0, Math.min(step - born, SHOT_STEPS));
    return { x: replica.x + replica.vx * age, y: replica.y + replica.vy * age, angle: replica.angle };
  }
  const then = now - DELAY_MS, path = replica.path;
  for (let i = path.length - 1; i > 0; i--) {
    const from = path[i - 1], to = path[i];
    if (from.at > then) continue;
    // Far apart: it died and came back elsewhere. Long ago: it stood still.
    if (Math.hypot(to.x - from.x, to.y - from.y) > 120) return to;
    const start = Math.max(from.at, to.at - 2 * STEP_MS);
    const share = Math.max(0, Math.min(1, (then - start) / Math.max(1, to.at - start)));
    return { x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share, angle: to.angle };
  }
  return path[0] ?? replica;
}

/** Draws the arena around the player. */
export class View {
  camera = { x: 450, y: 450 };
  own = { x: 0, y: 0, known: false };
  sparks = [];

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.resize();
    addEventListener("resize", () => this.resize());
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.canvas.width = innerWidth * ratio;
    this.canvas.height = innerHeight * ratio;
    this.zoom = Math.max(this.canvas.width / 1150, this.canvas.height / 800);
  }

  /** The direction from the player to a point of the page, as an angle byte. */
  aim(pageX, pageY) {
    const ratio = this.canvas.width / innerWidth;
    const x = (pageX * ratio - this.canvas.width / 2) / this.zoom + this.camera.x - this.own.x;
    const y = (pageY * ratio - this.canvas.height / 2) / this.zoom + this.camera.y - this.own.y;
    return Math.round(((Math.atan2(y, x) / (2 * Math.PI)) * 256 + 256)) & 0xff;
  }

  /** Moves the own body at once, and lets the server's word pull it back softly. */
  predict(replica, input, edge, elapsed) {
    if (!replica || replica.health === 0) {
      this.own.known = false;
      return;
    }
    if (!this.own.known || Math.hypot(replica.x - this.own.x, replica.y - this.own.y) > 80) {
      Object.assign(this.own, { x: replica.x, y: replica.y, known: true });
    }
    const length = Math.max(1, Math.hypot(input.x, input.y));
    const way = (SPEED * elapsed) / STEP_MS;
    const pull = 1 - Math.exp(-elapsed / 180);
    this.own.x += (input.x / length) * way;
    this.own.y += (input.y / length) * way;
    // The server is a round trip behind: compare with where it will be, not where it was.
    this.own.x += (replica.x + replica.vx * 1.5 - this.own.x) * pull;
    this.own.y += (replica.y + replica.vy * 1.5 - this.own.y) * pull;
    this.own.x = Math.max(BODY, Math.min(edge - BODY, this.own.x));
    this.own.y = Math.max(BODY, Math.min(edge - BODY, this.own.y));
  }

  burst(x, y, colour) {
    for (let n = 0; n < 18; n++) {
      const angle = Math.random() * 6.283, speed = 40 + Math.random() * 160;
      this.sparks.push({ x, y, vx: Math.cos(angle) * speed, vy: Math.sin(angle) * speed, life: 0.7, colour });
    }
    if (this.sparks.length > 400) this.sparks.splice(0, this.sparks.length - 400);
  }

  draw(mirror, game, now, elapsed) {
    const c = this.context, { width, height } = this.canvas;
    const me = mirror.replicas.get(game.me);
    const focus = this.own.known ? this.own : me && me.x ? me : this.camera;
    const follow = 1 - Math.exp(-elapsed / 90);
    this.camera.x += (focus.x - this.camera.x) * follow;
    this.camera.y += (focus.y - this.camera.y) * follow;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = "#070b16";
    c.fillRect(0, 0, width, height);
    c.setTransform(this.zoom, 0, 0, this.zoom, width / 2 - this.camera.x * this.zoom, height / 2 - this.camera.y * this.zoom);
    this.#ground(c, game.edge, width, height);
    for (const replica of mirror.replicas.values()) {
      if (replica.kind === 2) this.#medkit(c, replica, now);
      else if (replica.kind === 3) this.#star(c, replica, now);
    }
    for (const replica of mirror.replicas.values()) {
      if (replica.kind === 1) this.#shot(c, placeOf(replica, mirror, now), replica);
    }
    for (const replica of mirror.replicas.values()) {
      if (replica.kind !== 0 || replica.health === 0) continue;
      const own = replica.id === game.me && this.own.known;
      const place = own ? { ...this.own, angle: game.input.angle } : placeOf(replica, mirror, now);
      this.#body(c, place, replica, own, game.names.get(replica.id));
    }
    this.#sparks(c, elapsed / 1000);
  }

  #ground(c, edge, width, height) {
    const halfWidth = width / this.zoom / 2, halfHeight = height / this.zoom / 2;
    const left = Math.max(0, this.camera.x - halfWidth), right = Math.min(edge, this.camera.x + halfWidth);
    const top = Math.max(0, this.camera.y - halfHeight), bottom = Math.min(edge, this.camera.y + halfHeight);
    c.fillStyle = "#0c1326";
    c.fillRect(0, 0, edge, edge);
    c.strokeStyle = "rgba(110, 150, 255, 0.09)";
    c.lineWidth = 1;
    c.beginPath();
    for (let x = Math.ceil(left / 60) * 60; x <= right; x += 60) { c.moveTo(x, top); c.lineTo(x, bottom); }
    for (let y = Math.ceil(top / 60) * 60; y <= bottom; y += 60) { c.moveTo(left, y); c.lineTo(right, y); }
    c.stroke();
    c.strokeStyle = "rgba(90, 209, 255, 0.55)";
    c.lineWidth = 4;
    c.strokeRect(0, 0, edge, edge);
  }

  #body(c, place, replica, own, name) {
    const colour = COLOURS[replica.colour & 15], angle = (place.angle / 256) * 6.28319;
    c.save();
    c.translate(place.x, place.y);
    c.rotate(angle);
    c.fillStyle = colour;
    c.globalAlpha = 0.16;
    c.beginPath(); c.arc(0, 0, BODY * 1.7, 0, 6.2832); c.fill();
    c.globalAlpha = 1;
    c.fillStyle = "#1a2440";
    c.fillRect(4, -4, BODY + 8, 8);
    c.fillStyle = colour;
    c.fillRect(6, -2.5, BODY + 5, 5);
    c.beginPath(); c.arc(0, 0, BODY, 0, 6.2832); c.fill();
    c.fillStyle = "rgba(7, 11, 22, 0.55)";
    c.beginPath(); c.arc(0, 0, BODY * 0.55, 0, 6.2832); c.fill();
    if (own) {
      c.strokeStyle = "#ffffff";
      c.lineWidth = 2;
      c.beginPath(); c.arc(0, 0, BODY + 3, 0, 6.2832); c.stroke();
    }
    c.restore();
    const share = replica.health / 100;
    c.fillStyle = "rgba(0, 0, 0, 0.55)";
    c.fillRect(place.x - 17, place.y - 27, 34, 4);
    c.fillStyle = share > 0.5 ? "#7dffb0" : share > 0.25 ? "#ffd166" : "#ff6b7d";
    c.fillRect(place.x - 17, place.y - 27, 34 * share, 4);
    if (name) {
      c.font = "11px system-ui, 'DejaVu Sans', sans-serif";
      c.textAlign = "center";
      c.fillStyle = own ? "#ffffff" : "rgba(220, 230, 255, 0.75)";
      c.fillText(name, place.x, place.y - 32);
    }
  }

  #shot(c, place, replica) {
    const length = Math.hypot(replica.vx, replica.vy) || 1;
    c.strokeStyle = "#fff2b0";
    c.lineWidth = 3;
    c.lineCap = "round";
    c.beginPath();
    c.moveTo(place.x, place.y);
    c.lineTo(place.x - (replica.vx / length) * 14, place.y - (replica.vy / length) * 14);
    c.stroke();
  }

  #medkit(c, replica, now) {
    const size = 9 + Math.sin(now / 300) * 1.2;
    c.fillStyle = "#7dffb0";
    c.fillRect(replica.x - size, replica.y - 3, size * 2, 6);
    c.fillRect(replica.x - 3, replica.y - size, 6, size * 2);
  }

  #star(c, replica, now) {
    c.fillStyle = "#ffd166";
    c.beginPath();
    for (let n = 0; n < 10; n++) {
      const angle = n * 0.62832 + now / 900, radius = n % 2 ? 5 : 11;
      c.lineTo(replica.x + Math.cos(angle) * radius, replica.y + Math.sin(angle) * radius);
    }
    c.fill();
  }

  #sparks(c, seconds) {
    for (const spark of this.sparks) {
      spark.x += spark.vx * seconds;
      spark.y += spark.vy * seconds;
      spark.life -= seconds;
      c.globalAlpha = Math.max(0, spark.life);
      c.fillStyle = spark.colour;
      c.fillRect(spark.x - 2, spark.y - 2, 4, 4);
    }
    c.globalAlpha = 1;
    this.sparks = this.sparks.filter((spark) => spark.life > 0);
  }

  static colour(index) {
    return COLOURS[index & 15];
  }
}
