#!/usr/bin/env python3
"""A bad cable between two network interfaces: bad_cable.py A B DELAY_MS LOSS_PERCENT MBIT_S

Makes the TAP interfaces A and B, says so, and carries frames between them until it is killed: like tc's netem, which
many kernels lack. MBIT_S 0: as fast as it goes. SIGUSR1 cuts the way from A to B, SIGUSR2 the way back, and SIGHUP
mends both.
"""
import collections
import fcntl
import os
import random
import select
import signal
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x1002
QUEUE_MAX = 1000  # frames, as netem has


def open_tap(name):
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
    return tap


class Direction:
    def __init__(self, source, sink, seed):
        self.source, self.sink = source, sink
        self.random = random.Random(seed)
        self.queue = collections.deque()  # (when it arrives, frame)
        self.busy_until = 0.0
        self.cut = False

    def take(self, now, delay, loss, bytes_s):
        try:
            frame = os.read(self.source, 65536)
        except OSError:  # nothing there, or the interface is down
            return
        if self.cut or self.random.random() < loss or len(self.queue) >= QUEUE_MAX:
            return
        self.busy_until = max(now, self.busy_until) + (len(frame) / bytes_s if bytes_s else 0)
        self.queue.append((self.busy_until + delay, frame))

    def deliver(self, now):
        while self.queue and self.queue[0][0] <= now:
            try:
                os.write(self.sink, self.queue.popleft()[1])
            except OSError:  # the interface is down: lost
                pass


def main():
    a, b = open_tap(sys.argv[1]), open_tap(sys.argv[2])
    delay, loss, bytes_s = float(sys.argv[3]) / 1e3, float(sys.argv[4]) / 100, float(sys.argv[5]) * 1e6 / 8
    directions = [Direction(a, b, 1), Direction(b, a, 2)]

    def on_signal(number, _frame):
        for direction, cuts in zip(directions, (signal.SIGUSR1, signal.SIGUSR2)):
            direction.cut = number != signal.SIGHUP and (direction.cut or number == cuts)

    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, on_signal)
    print("plugged in", flush=True)
    while True:
        arrivals = [direction.queue[0][0] for direction in directions if direction.queue]
        wait = max(0.0, min(arrivals) - time.monotonic()) if arrivals else None
        ready = select.select([a, b], [], [], wait)[0]
        now = time.monotonic()
        for direction in directions:
            if direction.source in ready:
                direction.take(now, delay, loss, bytes_s)
            direction.deliver(now)


main()
