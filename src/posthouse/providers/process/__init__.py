"""Workers as processes of this machine: every instance is a directory and a session of processes.

    <root>/posthouse-<installation>-<worker id>/
        instance.json   what was ordered; written before anything starts
        onstart.sh      the template's onstart, run by bash at every start
        output.log      what it printed; output.log.1 is what came before
        model.log       MODEL_LOG, which the template writes; empty again at every start
        exit_code       how onstart ended, if it did
        tmp/            TMPDIR

Whether an instance lives is never written down: `procfs` sees it. So nothing is lost when the server dies, and workers
go on without it. A worker runs as the server's own user: this keeps workers tidy, it does not keep them in.
"""

from posthouse.providers.process.provider import ProcessProvider as ProcessProvider
