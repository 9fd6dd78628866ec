"""Workers as processes of this machine: every instance is a directory and a tree of processes below its keeper.

    <root>/posthouse-<installation>-<worker id>/
        instance.json   what was ordered; written before anything starts
        output.log      what it printed; output.log.1 is what came before
        model.log.1     the end of its model.log, when that had to be cut
        exit_code       how onstart ended, if it did
        home/           all that the instance itself can reach: its HOME and working directory
            onstart.sh  the template's onstart, run by bash at every start
            model.log   MODEL_LOG, which the template writes; empty again at every start
            tmp/        TMPDIR
    <root>/.ended/      the last output of instances that are gone, for a day

Whether an instance lives is never written down: `procfs` sees it. So nothing is lost when the server dies, and workers
go on without it. `keeper` is the wall around an instance: it cannot read the rest of the data directory, and none of
its processes outlives it. Files in `home` are hostile; all others are where no instance can write.
"""

from posthouse.providers.process.provider import ProcessProvider as ProcessProvider
