"""Plays RStudio Server's part of its contract with this image, as the sources of rstudio/rstudio have it.

`fake_rserver.py OPTION... login USER PASSWORD [OTP]` asks the helper (src/cpp/server/ServerPAMAuth.cpp, pamLogin) and
ends with its status. `fake_rserver.py OPTION... session` starts a session (src/cpp/core/system/PosixSystem.cpp,
launchChildProcess and runProcess) and waits for SIGTERM, which it does not report to the session (issue 8917).
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys


def main() -> int:
    options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
    what, *words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if what == "login":
        user, password, *otp = words
        command = [options["auth-pam-helper-path"], user, "rstudio", "1", "192.0.2.7"]
        return subprocess.run(command, input="\n".join([password, *otp]), text=True, check=False).returncode
    account = pwd.getpwuid(os.getuid())
    environ = {name: os.environ[name] for name in ("PATH", "MANPATH", "LANG", "SHELL") if name in os.environ}
    environ |= {"USER": account.pw_name, "LOGNAME": account.pw_name, "HOME": account.pw_dir}
    environ |= {"R_HOME": "/usr/local/lib/R", "RSTUDIO_VERSION": "2026.06.0+242"}
    # Its own, for the stand-in of the session.
    environ |= {name: value for name, value in os.environ.items() if name.startswith("FUTURE_KUBERNETES_R")}
    if os.fork() == 0:
        os.setpgid(0, 0)
        session = options["rsession-path"]
        os.execve(session, [session, "-u", account.pw_name, "--launcher-token", "123"], environ)
    signal.sigwait({signal.SIGTERM})
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.exit(main())
