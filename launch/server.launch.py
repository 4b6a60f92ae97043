r"""Serve a model on this machine for the matcher `cropond_remote`, and start it again when it ends.

ros2 launch crosspoint_ros server.launch.py model:=/models/CroPond-3B
ros2 launch crosspoint_ros server.launch.py server:=llama_cpp model:=/models/cropond-q8_0.gguf

bringup.launch.py starts it too, with server:=vllm server_model:=/models/CroPond-3B.
"""
import shlex
import shutil
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

SERVED_NAME = 'cropond'
PROGRAMS = {'vllm': ('vllm', 'pip install vllm, and source its environment before this launch'),
            'llama_cpp': ('llama-server', 'build llama.cpp, or install its release, and add its '
                          'folder to PATH')}
# Two images of 768 tokens, the question and the reply take less than half of it.
CONTEXT_TOKENS = 4096
LLAMA_SLOTS = 4  # requests at a time: a question and its check, of two other cameras
ARGUMENTS = {
    'server': ('vllm', 'vllm (a folder or a hub id), or llama_cpp (a GGUF file)'),
    'model': ('', 'the model: /models/CroPond-3B; a GGUF file needs its vision file, mmproj*.gguf, '
              'in the same folder'),
    'host': ('127.0.0.1', 'address to serve on; with any other set VLLM_API_KEY, or '
             'LLAMA_API_KEY'),
    'port': ('8000', 'TCP port to serve on'),
    'arguments': ('', "more arguments of the server: '--gpu-memory-utilization 0.6'"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` evaluates them."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in ARGUMENTS.items()),
        OpaqueFunction(function=start),
    ])


def start(context):
    """Return the server's process."""
    def given(name):
        return LaunchConfiguration(name).perform(context)

    command = [*build_command(given('server'), given('model')), '--host', given('host'),
               '--port', given('port'), *shlex.split(given('arguments'))]
    # It frees the GPU's memory before it ends, which takes longer than launch allows a node.
    return [ExecuteProcess(cmd=command, name='model_server', output='screen', emulate_tty=True,
                           respawn=True, respawn_delay=5.0, sigterm_timeout='20',
                           sigkill_timeout='10')]


def build_command(server, model):
    """Return the command line; raise, with what to do, for a program or file that is missing."""
    if server not in PROGRAMS:
        raise RuntimeError(f'server: {server!r} is not one of {", ".join(PROGRAMS)}')
    program, hint = PROGRAMS[server]
    if shutil.which(program) is None:
        raise RuntimeError(f'server: {program} is not installed: {hint}')
    if not model:
        raise RuntimeError('no model: give model:=/models/CroPond-3B (of bringup.launch.py: '
                           'server_model)')
    if server == 'llama_cpp':
        return [program, '-m', model, '--mmproj', find_vision_file(Path(model)),
                '--alias', SERVED_NAME, '-ngl', '99', '--jinja',
                '--parallel', str(LLAMA_SLOTS), '-c', str(LLAMA_SLOTS * CONTEXT_TOKENS)]
    return [program, 'serve', model, '--served-model-name', SERVED_NAME,
            '--max-model-len', str(CONTEXT_TOKENS), '--enable-prefix-caching',
            '--limit-mm-per-prompt', '{"image": 2, "video": 0}',
            # Qwen's own penalises repeated tokens, and digits repeat.
            '--generation-config', 'vllm']


def find_vision_file(model):
    """Return the vision file of a GGUF; raise if it is missing: the model would see no images."""
    if model.suffix != '.gguf' or not model.is_file():
        raise RuntimeError(f'model: {model} is not a GGUF file, which llama_cpp needs; vllm takes '
                           'a folder')
    files = sorted(path for path in model.parent.glob('*mmproj*.gguf') if path != model)
    if len(files) != 1:
        raise RuntimeError(f'model: {model.parent} holds {len(files)} vision files (*mmproj*.gguf) '
                           f'for {model.name}, one is needed: convert_hf_to_gguf.py --mmproj '
                           'writes it')
    return str(files[0])
