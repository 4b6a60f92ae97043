"""Shell completion of the commands: static scripts for bash, zsh and fish."""
from __future__ import annotations

import argparse

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
BASH_CASE = '''    {prefix}) COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;'''

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
ZSH_CASE = '''    {prefix}) commands=({words}) ;;'''

FISH = '''# fish: crosspoint completion fish > ~/.config/fish/completions/crosspoint.fish
{cases}
'''
FISH_CASE = ('''complete -c crosspoint -f -n 'test "$(commandline -opc)" = "{after}"' '''
             '-a {word} -d {summary}')


def build_tree() -> dict[str, dict[str, str]]:
    """Return word and summary of what may follow each prefix: '' and the groups of two words."""
    tree: dict[str, dict[str, str]] = {'': {}}
    for name, command in COMMANDS.items():
        first, _, second = name.partition(' ')
        tree[''].setdefault(first, GROUPS[first][0] if second else command.summary)
        if second:
            tree.setdefault(first, {})[second] = command.summary
    return tree


def quote(text: str) -> str:
    """Quote a text for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def format_script(shell: str) -> str:
    """Return the completion script of a shell."""
    tree = build_tree()
    if shell == 'bash':
        return BASH.format(cases='\n'.join(
            BASH_CASE.format(prefix=prefix or "''", words=' '.join(words))
            for prefix, words in tree.items()))
    if shell == 'zsh':
        return ZSH.format(cases='\n'.join(
            ZSH_CASE.format(prefix=prefix or "''", words=' '.join(
                quote(f'{word}:{summary}') for word, summary in words.items()))
            for prefix, words in tree.items()))
    return FISH.format(cases='\n'.join(
        FISH_CASE.format(after=f'crosspoint {prefix}'.strip(), word=word, summary=quote(summary))
        for prefix, words in tree.items() for word, summary in words.items()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint completion`."""
    parser.add_argument('shell', choices=('bash', 'zsh', 'fish'))
    parser.epilog = 'The first line of each script is the command that installs it.'


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    print(format_script(args.shell), end='')
    return 0
