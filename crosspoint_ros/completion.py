"""Shell completion of the commands: static scripts for bash, zsh and fish."""
from __future__ import annotations

import argparse
import shlex

from crosspoint_ros.cli import COMMANDS, GROUPS

BASH = '''# bash: source <(crosspoint completion bash)
_crosspoint() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}"
  case "${{COMP_WORDS[*]:1:COMP_CWORD-1}}" in
{cases}
  esac
}}
complete -o default -F _crosspoint crosspoint
'''
ZSH = '''#compdef crosspoint
# zsh: crosspoint completion zsh > "${{fpath[1]}}/_crosspoint"
_crosspoint() {{
  local -a commands
  case "${{words[2,CURRENT-1]}}" in
{cases}
    *) _files; return ;;
  esac
  _describe command commands
}}
compdef _crosspoint crosspoint
'''
FISH = '''# fish: crosspoint completion fish > ~/.config/fish/completions/crosspoint.fish
{cases}
'''
# shell -> script, what it offers after one prefix, and one word of that
SCRIPTS = {
    'bash': (BASH, '    {prefix!r}) COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;',
             '{word} '),
    'zsh': (ZSH, '    {prefix!r}) commands=({words}) ;;', '{description} '),
    'fish': (FISH, '{words}', '''complete -c crosspoint -f -n 'test "$(commandline -opc)" = '''
             '''"{after}"' -a {word} -d {summary}\n''')}


def format_script(shell: str) -> str:
    """Return the completion script of a shell."""
    script, case, item = SCRIPTS[shell]
    tree: dict[str, dict[str, str]] = {'': {}}  # '' or a group -> word -> summary
    for name, command in COMMANDS.items():
        group, _, word = name.rpartition(' ')
        if group:
            tree[''].setdefault(group, GROUPS[group][0])
        tree.setdefault(group, {})[word] = command.summary
    return script.format(cases='\n'.join(case.format(prefix=prefix, words=''.join(item.format(
        word=word, summary=shlex.quote(summary), description=shlex.quote(f'{word}:{summary}'),
        after=f'crosspoint {prefix}'.strip()) for word, summary in words.items()))
        for prefix, words in tree.items()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint completion`."""
    parser.add_argument('shell', choices=SCRIPTS)
    parser.epilog = 'The first line of each script is the command that installs it.'


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    print(format_script(args.shell), end='')
    return 0
