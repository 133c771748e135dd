"""File systems of a test's own: small, full, failing, or cut off from one moment to the next.

`in_own_namespace()` starts the program again in a mount namespace of its own: whatever it mounts is
gone with it. That is root's; where it cannot be done the test fails and says so, and does not skip.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def in_own_namespace():
    if os.environ.get("OM_OWN_MOUNTS"):
        return
    if os.geteuid() != 0:
        sys.exit("this test mounts file systems and wants to be run by root")
    os.environ["OM_OWN_MOUNTS"] = "1"
    os.execvp("unshare", ["unshare", "-m", sys.executable] + sys.argv)


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stdout.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


class FileSystem:
    """One that is mounted on `path`: a tmpfs, or an ext4 in a file."""

    def __init__(self, megabytes, kind="ext4"):
        self.directory = tempfile.mkdtemp(prefix="om-mount-")
        self.path = os.path.join(self.directory, "mnt")
        self.image = os.path.join(self.directory, "image")
        self.kind = kind
        self.megabytes = megabytes
        self.mounted = False
        os.mkdir(self.path)
        try:
            if kind == "ext4":
                with open(self.image, "wb") as image:
                    image.truncate(megabytes << 20)
                run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", self.image)
            self.mount()
        except BaseException:
            self.close()
            raise

    def mount(self):
        if self.kind == "ext4":
            run("mount", "-o", "loop,errors=remount-ro", self.image, self.path)
        else:
            run("mount", "-t", "tmpfs", "-o", f"size={self.megabytes}m,mode=0700", "tmpfs", self.path)
        self.mounted = True

    def unmount(self):
        """Waits for nobody: who has something open keeps it."""
        if self.mounted:
            run("umount", self.path)
            self.mounted = False

    def cut(self):
        """As when the power goes: nothing more reaches the disk, not even what was under way.
        Until it is mounted anew everything answers EIO."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def read_only(self):
        """As ext4 makes itself when it meets an error, whoever has files open for writing."""
        device = os.path.basename(run("findmnt", "-n", "-o", "SOURCE", self.path).strip())
        with open(f"/sys/fs/ext4/{device}/trigger_fs_error", "w") as trigger:
            trigger.write("a test's\n")

    def used(self):
        """What its files take, without what an empty one takes."""
        space = os.statvfs(self.path)
        return (space.f_blocks - space.f_bfree) * space.f_frsize

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "-l", self.path], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class BootId:
    """A boot id of our own, for the processes of this namespace. `another()` is a reboot."""

    def __init__(self):
        self.file = tempfile.NamedTemporaryFile("w", prefix="om-boot-id-")
        self.number = 0
        self.another()
        run("mount", "--bind", self.file.name, BOOT_ID)

    def another(self):
        self.number += 1
        self.file.seek(0)
        self.file.write(f"00000000-0000-4000-8000-{self.number:012d}\n")
        self.file.flush()

    def close(self):
        subprocess.run(["umount", BOOT_ID], check=False)
        self.file.close()
