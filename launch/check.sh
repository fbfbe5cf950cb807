# shellcheck shell=bash
# What would stop the launcher, found while there is no TPU to pay for: a line for each thing, STATUS NAME FINDING REMEDY
# with tabs between (`trm doctor --pod` makes a table of them). To be sourced by tpu_pod.sh, whose settings it uses.
# shellcheck disable=SC2154

broken=0
API=tpu.googleapis.com
OBJECTS=roles/storage.objectUser BUCKET=roles/storage.legacyBucketReader # what a run needs in its bucket
POLICY=(--flatten='bindings[].members' --format='value(bindings.members,bindings.role,bindings.condition.title)')

# tell ok|warn|fail NAME FINDING REMEDY
tell() {
  ((!dry_run)) || return 0
  [[ $1 != fail ]] || broken=1
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "${3//[$'\t\n']/ }" "${4:-}"
}

# question NAME FINDING REMEDY PRESUMED ARGUMENT...: asks gcloud, which is to know what it is asked for. Sets `answer`.
question() {
  if gc "${@:4}"; then
    tell ok "$1" "$2"
  elif denied; then
    tell fail "$1" "$(said)" "gcloud projects add-iam-policy-binding $project --member=$member --role=roles/tpu.admin"
  else
    tell fail "$1" "$(said)" "$3"
  fi
}

denied() { grep -qE 'PERMISSION_DENIED|403' "$scratch/said"; }

grant() { echo "gcloud storage buckets add-iam-policy-binding $own_bucket --member=$1 --role=$2"; }

check_programs() {
  local program missing=0
  for program in gcloud git ssh scp ssh-keygen; do
    command -v "$program" >/dev/null && continue
    missing=1
    tell fail "$program" 'the launcher needs it and it is not installed' \
      "$([[ $program == gcloud ]] && echo 'see https://cloud.google.com/sdk/docs/install' || echo "install $program")"
  done
  ((missing)) || tell ok programs 'gcloud, git and ssh are installed'
}

# gcloud reaches several workers at once only with a key that asks for no passphrase.
check_key() {
  local key=$HOME/.ssh/google_compute_engine
  if [[ ! -f $key ]]; then
    tell warn 'ssh key' "there is no $key yet; gcloud makes it when it first connects" "ssh-keygen -t rsa -N '' -f $key"
  elif run ssh-keygen -y -P '' -f "$key" &>/dev/null </dev/null || run ssh-add -T "$key.pub" &>/dev/null; then
    tell ok 'ssh key' "$key asks for no passphrase, or the ssh agent knows it"
  else
    tell fail 'ssh key' "$key has a passphrase, which nobody is there to type" "ssh-add $key"
  fi
}

# The launcher's own step, which refuses what is not committed.
check_code() {
  if (choose_code) 2>"$scratch/said"; then
    tell ok code "$( ((dirty)) && echo 'sent as it is, committed or not' || echo 'committed')"
  else
    tell fail code "$(tail -n 1 "$scratch/said")" 'git commit   # or --dirty'
  fi
}

# Only a machine like a worker can tell what a worker would install.
check_requirements() {
  local file=$repository/requirements-tpu.txt pip
  pip=("$python" -m pip install --dry-run --ignore-installed --quiet -r "$file")
  if [[ $(uname -sm) != 'Linux x86_64' ]]; then
    tell warn requirements 'only Linux on x86-64 can tell what the workers would install' "$(quoted "${pip[@]}")"
  elif run "${pip[@]}" 2>"$scratch/said"; then
    tell ok requirements "pip finds all of ${file##*/}"
  else
    tell fail requirements "$(said)" "$(quoted "${pip[@]}")"
  fi
}

check_cloud() {
  local project_state number member enable tpus=(compute tpus) at="${place[*]}"
  if ! gc ACCOUNT auth list --filter=status:ACTIVE --format='value(account)' || [[ -z $answer ]]; then
    tell fail account 'gcloud is not logged in' 'gcloud auth login'
    return
  fi
  tell ok account "$answer"
  member=user:$answer
  [[ $answer != *.gserviceaccount.com ]] || member=serviceAccount:$answer
  find_place
  ((!dry_run)) || project=${project:-PROJECT}
  if [[ -z $project ]]; then
    tell fail project 'gcloud has no project' 'gcloud config set project PROJECT   # or --project'
    return
  fi
  gc 'ACTIVE NUMBER' projects describe "$project" --format='value(lifecycleState,projectNumber)' || answer=$(said)
  read -r project_state number <<<"$answer"
  if [[ $project_state != ACTIVE ]]; then
    tell fail project "$project: $answer" 'gcloud projects list'
    return
  fi
  tell ok project "$project"
  enable="gcloud services enable $API --project=$project"
  if ! gc "$API" services list --enabled --filter="config.name=$API" --format='value(config.name)' --project="$project"
  then
    tell warn 'TPU API' "gcloud does not say whether it is on: $(said)" "$enable"
  elif [[ $answer != *"$API"* ]]; then
    tell fail 'TPU API' "$API is off in $project" "$enable"
  else
    tell ok 'TPU API' "$API is on"
  fi
  question 'TPU type' "$zone has $type" "gcloud compute tpus accelerator-types list $at   # or another --zone" \
    '' "${tpus[@]}" accelerator-types describe "$type" "${place[@]}"
  question 'TPU software' "$zone has $version" "gcloud compute tpus versions list $at   # then --version" \
    '' "${tpus[@]}" versions describe "$version" "${place[@]}"
  question 'queued resources' 'they may be listed' "gcloud compute tpus queued-resources list $at" \
    '' "${tpus[@]}" queued-resources list --limit=1 "${place[@]}"
  check_quota
  check_bucket "$member" "$number"
}

# What the project may have of this type in this region; what is in use gcloud does not tell.
check_quota() {
  local page="https://console.cloud.google.com/iam-admin/quotas?project=$project   # filter: $API"
  local what=$type kind=${type%%-*} id places value least=''
  ((!spot)) || what+=', spot,'
  what+=" in $zone"
  declare -A names=([v4]=V4 [v5litepod]=Litepod [v5p]=V5P [v6e]=V6E) # as in TPUV4sPodPerProjectPerRegionForTPUAPI
  if ! gc '' beta quotas info list --service="$API" --project="$project" --flatten='dimensionsInfos[]' \
    --format='value(quotaId,dimensionsInfos.applicableLocations.list(),dimensionsInfos.details.value)'; then
    tell warn quota "gcloud tells no quota for $what: $(said)" "$page"
    return
  fi
  while IFS=$'\t' read -r id places value; do
    [[ $id == *"${names[$kind]:-$kind}"* && $id != *Reserved* && $id != *Serving* ]] || continue
    [[ $( ((spot)) && echo 1) == $([[ $id != *Preemptible* ]] || echo 1) ]] || continue
    [[ ,$places, == *,"$zone",* || ,$places, == *,"$region",* ]] || continue
    value=${value:-0}
    ((value >= 0)) || value=999999999 # -1 stands for no limit
    [[ -n $least ]] && ((least <= value)) || least=$value
  done <<<"$answer"
  if [[ -z $least ]]; then
    tell warn quota "gcloud tells no quota for $what" "$page"
  elif ((least == 0)); then
    tell fail quota "there is none for $what" "$page"
  elif [[ ${type##*-} =~ ^[0-9]+$ ]] && ((least < 10#${type##*-})); then
    tell warn quota "it is $least for $what, which takes up to ${type##*-}" "$page"
  else
    tell ok quota "it is enough for $what"
  fi
}

# check_bucket MEMBER NUMBER: whether it is there, lies beside the TPU, and takes an object from here and from there.
check_bucket() {
  local create="gcloud storage buckets create $own_bucket --location=$region --project=$project" probe=$root/.trm_doctor
  if ! gc "$region" storage buckets describe "$own_bucket" --format='value(location)'; then
    tell fail bucket "$own_bucket: $(said)" "$(denied && grant "$1" "$BUCKET" || echo "$create")"
    return
  elif [[ ${answer,,} == "$region" ]]; then
    tell ok bucket "$own_bucket lies in $region, as the TPU does"
  else
    tell warn bucket "$own_bucket lies in ${answer,,} and the TPU in $region: slower, and traffic may be charged" \
      "${create/$own_bucket/gs://OTHER}"
  fi
  if gc '' storage cp - "$probe" <<<'may a run be marked as done here?' && gc '' storage rm "$probe"; then
    tell ok 'bucket access' "$root takes objects and gives them up again"
  else
    tell fail 'bucket access' "$root: $(said)" "$(grant "$1" "$OBJECTS")"
  fi
  check_hosts "$2"
}

# check_hosts NUMBER: whether the account as which the TPU's hosts act may use the bucket, by the policies of the bucket
# and of project NUMBER. What holds under a condition, for a group or by a role of one's own does not count.
check_hosts() {
  local account=$1-compute@developer.gserviceaccount.com flag last='' unknown='' remedy='' members held role
  for flag in "${create_flags[@]}"; do
    [[ $flag != --service-account=* ]] || account=${flag#*=}
    [[ $last != --service-account ]] || account=$flag
    last=$flag
  done
  members="serviceAccount:$account"
  gc '' projects get-iam-policy "$project" "${POLICY[@]}" || unknown=$(said)
  held=$(roles_of "$members")
  # By default a bucket gives all that have a basic role in its project a right of their own.
  for role in owner editor viewer; do
    grep -qx "roles/$role" <<<"$held" && members+="|project${role^}:$project"
  done
  gc '' storage buckets get-iam-policy "$own_bucket" "${POLICY[@]}" || unknown=$(said)
  held+=$'\n'$(roles_of "$members|allUsers|allAuthenticatedUsers")
  grep -qE '^roles/storage\.(objectUser|objectAdmin|admin|legacyBucketOwner)$' <<<"$held" ||
    remedy=$(grant "serviceAccount:$account" "$OBJECTS")
  grep -qE '^roles/storage\.(legacyBucket(Reader|Writer|Owner)|bucketViewer|admin)$' <<<"$held" ||
    remedy+=${remedy:+ && }$(grant "serviceAccount:$account" "$BUCKET")
  if [[ -z $remedy ]] || ((dry_run)); then
    tell ok 'service account' "$account may use $own_bucket"
  elif [[ -n $unknown ]]; then
    tell warn 'service account' "it is not known whether $account may use $own_bucket: $unknown" "$remedy"
  else
    tell warn 'service account' "the TPU's hosts act as $account, which may not use $own_bucket" "$remedy"
  fi
}

# roles_of MEMBERS: those that the policy in `answer` gives to one of MEMBERS (A|B|...) without a condition.
roles_of() { awk -F '\t' -v members="|$1|" '$3 == "" && index(members, "|" $1 "|") { print $2 }' <<<"$answer"; }

check() {
  local member region=${zone%-*} own_bucket
  find_root
  own_bucket=gs://${bucket%%/*}
  find_members
  ((dry_run)) || printf 'runs\t%s\t%s\t%s\n' "$type" "$root" "${members[*]}"
  tell ok launcher "${#members[@]} runs on a $type in $zone$( ((spot)) && echo ', spot'), into $root"
  for member in "${left_out[@]}"; do
    tell warn "run $member" 'the settings make it impossible' 'leave out the setting that does so'
  done
  check_programs
  check_key
  check_code
  check_requirements
  if ((dry_run)) || command -v gcloud >/dev/null; then
    check_cloud
  fi
  exit $broken
}
