"""TEMPORARY until merged."""
import os, socket
class Elsewhere(RuntimeError): ...
class ProcessGroup:
    def __init__(self):
        self.index, self.count, self.stop_reason = 0, 1, ""
        self.members = [f"process 0 ({socket.gethostname()}, pid {os.getpid()})"]
    first = property(lambda self: self.index == 0)
    def gather(self, value): return [value]
    def share(self, make): return make()
    def stop_agreed(self, requested):
        self.stop_reason = self.stop_reason or requested
        return bool(self.stop_reason)
    def agree(self, due): return due
