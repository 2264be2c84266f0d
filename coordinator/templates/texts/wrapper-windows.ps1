#ps1_sysnative
# Starts {{ runner_name }}: fetches its install script and runs it, within this process: no argument, no file holds the token.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
$token = {{ token | ps }}
$metadata = {{ metadata_url | ps }}
$callback = {{ callback_url | ps }}
{% for name in environment %}
$env:{{ name }} = {{ environment[name] | ps }}
{% endfor %}
{% if proxy %}
$address = [Uri]{{ proxy | ps }}
$bypassed = {{ no_proxy | ps }}.Split(',') | Where-Object { $_ } | ForEach-Object { [regex]::Escape($_.Trim()) }
$proxy = New-Object Net.WebProxy($address, $true, [string[]]@($bypassed))
if ($address.UserInfo) {
  $login = $address.UserInfo.Split(':') | ForEach-Object { [Uri]::UnescapeDataString($_) }
  $proxy.Credentials = New-Object Net.NetworkCredential(@($login)[0], @($login)[1])
}
[Net.WebRequest]::DefaultWebProxy = $proxy
{% endif %}
{% if certificates %}

function Add-Trusted([string]$pem) {
  $file = Join-Path $env:TEMP 'hostler-trusted.pem'
  [IO.File]::WriteAllText($file, $pem)
  Import-Certificate -FilePath $file -CertStoreLocation Cert:\LocalMachine\Root | Out-Null
  Remove-Item $file
}
{% endif %}
{% for one in certificates %}
Add-Trusted {{ one | ps }}
{% endfor %}
$headers = @{ Authorization = "Bearer $token" }

function Send-Failure([string]$message) {
  $body = ConvertTo-Json @{ status = 'failed'; message = $message }
  try {
    Invoke-RestMethod -UseBasicParsing -Method Post -Uri "$callback/status" -Headers $headers -ContentType 'application/json; charset=utf-8' -Body $body -TimeoutSec 30 | Out-Null
  } catch {
    Write-Output "the coordinator was not told: $($_.Exception.Message)"
  }
}

$script = $null
for ($try = 1; $null -eq $script; $try++) {
  try {
    $script = (Invoke-WebRequest -UseBasicParsing -Uri "$metadata/install-script" -Headers $headers -TimeoutSec 60).Content
  } catch {
    if ($try -ge 6) {
      Send-Failure 'the install script could not be fetched'
      throw
    }
    Start-Sleep -Seconds 5
  }
}
try {
  & ([ScriptBlock]::Create($script))
} catch {
  Send-Failure "the install script failed: $($_.Exception.Message)"
  throw
}
