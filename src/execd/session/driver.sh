# What a session's shell runs. Its lines are joined into one, so that those of the text it is given
# are counted from 1 in error messages, and each must be complete with the next one behind it.
#
# Descriptor 58 brings, for each run, two byte counts with a text each: what prepares the run, and
# the run itself. Descriptor 59 takes back the exit code and the state of the shell, each ending
# with a byte 0. Both are closed while the texts run, so that nothing they start inherits them; the
# copies bash keeps meanwhile are close-on-exec.
exec 58<&3 59>&4 3<&- 4>&-;
while
    IFS= builtin read -r -u 58 __osb_n &&
    LC_ALL=C IFS= builtin read -r -N "$__osb_n" -u 58 __osb_prepare &&
    IFS= builtin read -r -u 58 __osb_n &&
    LC_ALL=C IFS= builtin read -r -N "$__osb_n" -u 58 __osb_run;
do
    # A loop of its own, for `break` and `continue` outside of any loop of the text to end.
    for __osb_n in 1; do
        builtin eval "$__osb_prepare" 58<&- 59>&- &&
        builtin eval "${__osb_x-}$__osb_run" 58<&- 59>&-;
    done;
    # Quiet, because the text may have left traces or traps on.
    {
        __osb_n=$? __osb_x=;
        builtin printf '%s\0' "$__osb_n" >&59;
        builtin unset __osb_run __osb_prepare;
        {
            builtin shopt -p;
            builtin declare -p;
            builtin declare -f;
            builtin export -fp;
            builtin alias -p;
            builtin umask -p;
            builtin printf 'builtin cd -- %q\n' "$PWD";
            builtin set +o;
            builtin printf '\0';
        } >&59;
        # The next text switches tracing on again for itself.
        if [[ $- == *x* ]]; then
            __osb_x='builtin set -x;';
            builtin set +x;
        fi;
    } >/dev/null 2>&1;
done
