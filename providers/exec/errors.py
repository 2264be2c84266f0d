"""What can go wrong with a provider executable. Texts and `stderr` are masked before they get here."""

from providers.contract import ProviderError


class ExecError(ProviderError):
    """A call of a provider executable failed.

    `left_behind` is set when `create` failed and the deletion of what it may have made failed as well: then something
    may still run in the cloud.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None, stderr: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.stderr = stderr
        self.left_behind: ProviderError | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return (
            f"{message}; deleting what it may have made failed too: {self.left_behind}" if self.left_behind else message
        )


class RequestInvalid(ExecError):
    """The executable was not called: every known one would refuse this request."""

    code = "provider_request_invalid"


class ProviderNotStarted(ExecError):
    """The executable could not be started, so nothing was made."""

    code = "provider_not_started"
    hint = "check `executable` of this provider: it must be a program for this machine, or a script with a #! line"


class ProviderTimeout(ExecError):
    """The executable or a process it left was still busy at the deadline and was killed."""

    code = "provider_timeout"
    hint = "check that the cloud's API answers; raise this provider's timeout_seconds if it is only slow"


class ProviderCommandFailed(ExecError):
    """The executable ended with an exit code that means failure, or was ended by a signal."""

    code = "provider_command_failed"
    hint = "see the executable's own words; its configuration is this provider's config_file"


class ProviderAnswerInvalid(ExecError):
    """The executable said that all went well but printed something that is not the answer."""

    code = "provider_answer_invalid"
    hint = "the executable must print nothing but its JSON answer on standard output; logs belong on standard error"


class InstanceNotFound(ExecError):
    """Exit code 30: the cloud has no such instance."""

    code = "instance_not_found"
    hint = "it was deleted, or never made"


class InstanceExists(ExecError):
    """Exit code 31: an instance of that name is there already. It was left alone."""

    code = "instance_exists"
    hint = "take it over after looking at it with get, or delete it by name"


class StillMaking(ExecError):
    """Another call, perhaps of a former life of this process, is making the instance: nothing was begun."""

    code = "still_making"
    hint = "it is waited for; when it takes longer than timeout_seconds it is ended"


class InstanceFaulty(ExecError):
    """The executable made the instance but reports it in status `error`."""

    code = "instance_faulty"
    hint = "the fault is the cloud's: check quota, image and flavor"
