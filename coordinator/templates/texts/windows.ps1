# Makes this machine the runner {{ runner_name }}: unpacks the runner unless the image has it, fetches all that it needs in
# one call, says that it is up (from then on the token opens nothing) and starts it. The machine goes off when it ends.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
$token = {{ token | ps }}
$metadata = {{ metadata_url | ps }}
$callback = {{ callback_url | ps }}
$headers = @{ Authorization = "Bearer $token" }
$folder = 'C:\actions-runner'
$userName = 'runner'

# Busy servers and a network that is not up yet are waited for; what is refused is not asked for again.
function Send-Json([string]$uri, [hashtable]$body) {
  for ($try = 1; ; $try++) {
    try {
      return Invoke-RestMethod -UseBasicParsing -Method Post -Uri $uri -Headers $headers -ContentType 'application/json; charset=utf-8' -Body (ConvertTo-Json $body) -TimeoutSec 60
    } catch {
      $status = 0
      if ($_.Exception.Response) { $status = [int]$_.Exception.Response.StatusCode }
      if ($try -ge 6 -or ($status -ge 400 -and $status -lt 500)) { throw }
      Start-Sleep -Seconds 5
    }
  }
}

function Send-Status([string]$status, [string]$message) {
  Send-Json "$callback/status" @{ status = $status; message = $message } | Out-Null
}

function Install-Runner {
{% if tool_url %}
  Send-Status 'installing' 'downloading the runner'
  $archive = Join-Path $env:TEMP 'hostler-runner.zip'
  $given = @{}
{% if tool_token %}
  $given = @{ Authorization = ('Bearer ' + {{ tool_token | ps }}) }
{% endif %}
  Invoke-WebRequest -UseBasicParsing -Uri {{ tool_url | ps }} -Headers $given -OutFile $archive -TimeoutSec 600
{% if tool_sha256 %}
  if ((Get-FileHash -Algorithm SHA256 -Path $archive).Hash -ne {{ tool_sha256 | ps }}) {
    throw "the runner's archive has a wrong checksum"
  }
{% else %}
  throw "the forge gave no checksum for the runner's archive: build the runner into the image"
{% endif %}
  Add-Type -AssemblyName System.IO.Compression.FileSystem
  [IO.Compression.ZipFile]::ExtractToDirectory($archive, $folder)
  Remove-Item $archive
{% else %}
  throw ("the image has no runner in $folder, and " + {{ why_no_tool | ps }} + ': build the runner into the image')
{% endif %}
}

# A local administrator, as on the forge's own machines, with a password that nobody keeps.
function New-RunnerUser {
  $random = New-Object byte[] 24
  [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($random)
  $password = 'aA1-' + [Convert]::ToBase64String($random)
  $secure = ConvertTo-SecureString $password -AsPlainText -Force
  if (Get-LocalUser -Name $userName -ErrorAction SilentlyContinue) {
    Set-LocalUser -Name $userName -Password $secure -PasswordNeverExpires $true
  } else {
    New-LocalUser -Name $userName -Password $secure -PasswordNeverExpires | Out-Null
  }
  if (-not (Get-LocalGroupMember -SID S-1-5-32-544 -Member $userName -ErrorAction SilentlyContinue)) {
    Add-LocalGroupMember -SID S-1-5-32-544 -Member $userName
  }
  return $password
}

function Save-RunnerFile([string]$name, [byte[]]$content) {
  if ($name -eq '.credentials_rsaparams') {
    # The runner reads this one, on Windows, as its machine has protected it.
    Add-Type -AssemblyName System.Security
    $scope = [Security.Cryptography.DataProtectionScope]::LocalMachine
    $content = [Security.Cryptography.ProtectedData]::Protect($content, $null, $scope)
  }
  [IO.File]::WriteAllBytes((Join-Path $folder $name), $content)
}

# A task and not a service: one that has ended is not started again, and the machine goes off after it.
function Register-Runner([string]$password) {
  $action = New-ScheduledTaskAction -Execute 'cmd.exe' -Argument '/d /c run.cmd & shutdown.exe /s /f /t 0' -WorkingDirectory $folder
  $settings = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([TimeSpan]::Zero) -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
  Register-ScheduledTask -TaskName 'hostler-runner' -Action $action -Settings $settings -User $userName -Password $password -RunLevel Highest -Force | Out-Null
}

try {
  if (-not (Test-Path (Join-Path $folder 'run.cmd'))) { Install-Runner }
  $password = New-RunnerUser
  icacls.exe $folder /grant "${userName}:(OI)(CI)F" /q | Out-Null
  if ($LASTEXITCODE) { throw "the runner's folder could not be given to its user" }
  $system = Get-CimInstance Win32_OperatingSystem
  # All that the runner is started with is given once.
  $all = Send-Json "$metadata/runner" @{ os_name = $system.Caption; os_version = $system.Version }
  foreach ($file in $all.files.PSObject.Properties) { Save-RunnerFile $file.Name ([Convert]::FromBase64String($file.Value)) }
  # What says which proxy there is, for the runner and its jobs.
  foreach ($name in 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY') {
    $value = [Environment]::GetEnvironmentVariable($name)
    if ($value) { Add-Content -Path (Join-Path $folder '.env') -Value "$name=$value" }
  }
  Register-Runner $password
  # Before the runner starts, so that no job ever runs beside a token that still opens something.
  Send-Status 'idle' 'runner is up'
} catch {
  $reason = "$($_.Exception.Message)"
  try { Send-Status 'failed' $reason } catch { Write-Output "the coordinator was not told: $($_.Exception.Message)" }
  throw
}
Start-ScheduledTask -TaskName 'hostler-runner'
