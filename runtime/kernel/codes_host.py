"""What each code of missions, inputs, providers, sandbox, storage, control socket and command line means.

Data only. `runtime.kernel.codes` is the door to it; a new code outside operations, blocks and turns goes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_MISSIONS: Final = {
    "MISSION_ACCEPT": "A code listed under accept is unknown or can never be accepted.",
    "MISSION_BRANCH": "A branch case is malformed.",
    "MISSION_COMMAND_ARGS": "A command's arguments do not match its template.",
    "MISSION_CONDITION": "A condition does not compile.",
    "MISSION_DUPLICATE_KEY": "A key appears twice.",
    "MISSION_EMPTY": "The mission file is empty.",
    "MISSION_ENCODING": "The mission file is not UTF-8 text.",
    "MISSION_ENDPOINT": "A provider's address is malformed.",
    "MISSION_ENVELOPE_FORBIDS": "A block does something the envelope always refuses.",
    "MISSION_FILE": "A file the mission names cannot be used.",
    "MISSION_HOST": "A host name is malformed.",
    "MISSION_IMPLICIT_VALUE": "A bare word such as yes or off is neither text nor true or false.",
    "MISSION_INPUT": "The declaration of an input contradicts itself.",
    "MISSION_INVALID": "The mission file has problems.",
    "MISSION_LINK": "A link is malformed or names an unknown block.",
    "MISSION_MISSING_KEY": "A required key is missing.",
    "MISSION_MISSING_PARAMETER": "A required parameter of a block is missing.",
    "MISSION_NAME": "A name is malformed or unknown.",
    "MISSION_NOT_FOUND": "There is no mission at this path.",
    "MISSION_NO_BUDGET": "The mission calls a model but may spend nothing (warning).",
    "MISSION_PARAMETER_TYPE": "A parameter has the wrong type.",
    "MISSION_PATH_ESCAPE": "A path leads out of the mission's folder.",
    "MISSION_PROVIDER": "The provider is not named exactly once.",
    "MISSION_REFERENCE": "A reference is malformed or looks up something that cannot be there.",
    "MISSION_REFERENCE_FORBIDDEN": "This place may not hold a reference.",
    "MISSION_ROLE": "A role is malformed or unknown.",
    "MISSION_SECRET": "A secret is written out, or its reference is malformed.",
    "MISSION_TOOL": "A tool's name is malformed or unknown.",
    "MISSION_TOO_DEEP": "The mission file is nested too deeply or has too many values.",
    "MISSION_TOO_LARGE": "The mission file is too large.",
    "MISSION_TOO_MANY_PROBLEMS": "More problems were found than are shown.",
    "MISSION_UNKNOWN_COMMAND": "The mission declares no such command.",
    "MISSION_UNKNOWN_INPUT": "The mission declares no such input.",
    "MISSION_UNKNOWN_KEY": "There is no such key here.",
    "MISSION_UNKNOWN_PARAMETER": "The block has no such parameter.",
    "MISSION_VALUE": "A value is of the wrong kind or out of range.",
    "MISSION_WATCH": "A watched path can never be seen to change.",
    "MISSION_WORKSPACE": "The workspace's keys contradict each other.",
    "MISSION_YAML_ALIAS": "Anchors and aliases are not part of the mission subset of YAML.",
    "MISSION_YAML_DOCUMENTS": "A mission file holds exactly one document.",
    "MISSION_YAML_KEY": "A key is not plain text.",
    "MISSION_YAML_MERGE": "Merge keys are not part of the mission subset of YAML.",
    "MISSION_YAML_NUMBER": "A number is written in a way that is easily misread.",
    "MISSION_YAML_SYNTAX": "The file is not valid YAML.",
    "MISSION_YAML_TAG": "Tags are not part of the mission subset of YAML.",
    "CONDITION_FAILED": "A condition failed while it was evaluated.",
    "REFERENCE_MISSING": "A reference looked up something that is not there.",
    "INIT_EXISTS": "Something exists already where the new mission would be written.",
    "INIT_IO": "The new mission could not be written.",
}

_INPUTS: Final = {
    "INPUT_CHOICE": "The value is not among the input's choices.",
    "INPUT_INVALID": "The inputs have problems.",
    "INPUT_MISSING": "A required input is missing.",
    "INPUT_SYNTAX": "An input is not given as name=value, or is given twice.",
    "INPUT_TYPE": "The value is not of the input's type.",
    "INPUT_UNKNOWN": "The mission has no such input.",
}

_RUNS: Final = {
    "RUN_AMBIGUOUS": "The beginning of the id fits several runs.",
    "RUN_UNKNOWN": "There is no such run.",
    "STEP_UNKNOWN": "The run has no such step.",
    "APPROVAL_AMBIGUOUS": "The run has several open questions; name one.",
    "APPROVAL_CHOICE": "The answer is not one of the question's choices.",
    "APPROVAL_MISSING": "A decision was needed and nobody could be asked.",
    "APPROVAL_REFUSED": "The operator said no.",
    "APPROVAL_UNKNOWN": "There is no such open question.",
    "EXPORT_EXISTS": "Something exists already where the export would be written.",
    "EXPORT_IO": "The export could not be written.",
}

_WATCHES: Final = {
    "WATCH_ARMED": "The mission is being watched already.",
    "WATCH_FAILED": "The operating system's file notices ended.",
    "WATCH_LIMIT": "Too many missions are being watched.",
    "WATCH_LOOP": "The mission changes what starts it, so it would rerun for ever.",
    "WATCH_NOT_DECLARED": "The mission does not say which files to watch.",
    "WATCH_OPTION": "An option of a watch is not one of those offered.",
    "WATCH_ROOT": "The folder watched is not there.",
    "WATCH_TOO_MANY": "The patterns cover more files than can be watched.",
    "WATCH_UNKNOWN": "There is no such watch.",
}

_WORLD: Final = {
    "PROVIDER_AUTH": "The provider did not accept the key.",
    "PROVIDER_CONFIG": "The provider's settings are wrong.",
    "PROVIDER_CONNECT": "The provider could not be reached.",
    "PROVIDER_EXHAUSTED": "The recorded answers of a role are used up.",
    "PROVIDER_INVALID": "The provider's answer is not usable.",
    "PROVIDER_NO_ANSWER": "There is no recorded answer for the role.",
    "PROVIDER_RATE_LIMITED": "The provider asks for fewer requests.",
    "PROVIDER_SERVER": "The provider failed.",
    "PROVIDER_TIMEOUT": "The provider took too long.",
    "PROVIDER_UNKNOWN": "There is no such provider.",
    "PROCESS_ARG": "A command's argument is not allowed.",
    "PROCESS_EXIT": "The program ended with a failure code.",
    "PROCESS_SPAWN": "The program could not be started.",
    "PROCESS_TEMPLATE": "The command's template cannot be used.",
    "WORKSPACE_LIMIT": "The folder to copy is too large.",
    "WORKSPACE_LINK": "A link leads out of the folder to copy.",
    "WORKSPACE_SOURCE": "The folder to copy is not there or cannot be read.",
    "WORKSPACE_SPECIAL": "The folder to copy holds something other than files, folders and links.",
    "SANDBOX_PATH": "A path could not be shown to the sandboxed process.",
    "SANDBOX_UNAVAILABLE": "Confinement is required and cannot be had on this machine.",
    "SECRET_MISSING": "A secret is not set.",
    "SECRET_REFERENCE": "A secret is not given as a reference.",
}

_STORE: Final = {
    "STORE_ARTIFACT_DAMAGED": "A stored body differs from its digest.",
    "STORE_ARTIFACT_SIZE": "A body is too large to keep.",
    "STORE_BACKLOG": "Too much waits to be written.",
    "STORE_BUSY": "The database is busy.",
    "STORE_CANNOT_OPEN": "The database cannot be opened.",
    "STORE_CLOSED": "The store is closed.",
    "STORE_CONSTRAINT": "The database refused a row.",
    "STORE_CONTRACT": "The store was asked for something it does not offer.",
    "STORE_CORRUPT": "The database is damaged.",
    "STORE_FAILED": "The database refused.",
    "STORE_FOREIGN": "The state folder belongs to another user.",
    "STORE_FULL": "The disk is full.",
    "STORE_IO": "The disk could not be read or written.",
    "STORE_LOCKED": "Another process holds the store.",
    "STORE_MEMORY": "The database ran out of memory.",
    "STORE_MISSING": "There is no store here.",
    "STORE_NOT_FOLDER": "The state folder's path is not a folder.",
    "STORE_NOT_OURS": "The file is not one of our databases.",
    "STORE_POISONED": "An earlier write failed, so nothing more is written until the next start.",
    "STORE_READ_ONLY": "The store can only be read.",
    "STORE_SUPERSEDED": "Another process has taken the store over.",
    "STORE_SYMLINK": "A part of the store is a symbolic link.",
    "STORE_TIMEOUT": "The database took too long.",
    "STORE_TOO_NEW": "The store was written by a newer version.",
    "STORE_TOO_OLD": "The database library is too old.",
    "STORE_TOO_OPEN": "Others may read the state folder.",
    "STORE_UNRESPONSIVE": "The process that holds the store does not answer.",
    "STORE_UNWRITABLE": "The state folder cannot be written.",
}

_CONTROL: Final = {
    "CONTROL_BAD_MESSAGE": "A message on the control socket is malformed.",
    "CONTROL_BUSY": "The holder serves too many clients.",
    "CONTROL_FAILED": "The holder could not carry a request out.",
    "CONTROL_FOREIGN": "The other end of the control socket belongs to another user.",
    "CONTROL_NOT_HOLDER": "Only the holder of the store serves the control socket.",
    "CONTROL_NO_TASK": "A control conversation was started outside a task.",
    "CONTROL_PATH": "The control socket's path cannot be used.",
    "CONTROL_REQUEST_SIZE": "A control request is too long.",
    "CONTROL_REQUEST_TIMEOUT": "A control request did not arrive completely in time.",
    "CONTROL_VERB": "The holder does not know the request, or not with these arguments.",
}

HOST: Final[Mapping[str, str]] = MappingProxyType(
    {**_MISSIONS, **_INPUTS, **_RUNS, **_WATCHES, **_WORLD, **_STORE, **_CONTROL}
)
